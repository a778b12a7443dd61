"""Write docs/settings.md from the settings themselves. A test fails while the file is out of date.

python tools/make_docs.py
"""

from pathlib import Path

from heed.cli.main import COMMANDS
from heed.cli.usage import default, described, spelling, summary
from heed.config import DataSource
from heed.settings import Settings, options

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

OPENING = """\
# Settings

Every setting has one name: the key in a settings file, and with `--` in front and `-` for `_` the option on the
command line. `heed COMMAND CONFIG.yaml --option value` reads the file first; what is given on the command line wins.
A dot is a section of the file, so `optim.lr` may be written in either way:

```yaml
optim:
  lr: 1e-4
  warmup: 0.1
```

Paths are looked up from the folder the command is given in. Written by `python tools/make_docs.py`; do not edit."""


def table(settings: type[Settings]) -> list[str]:
    lines: list[str] = []
    section = None
    for option in options(settings):
        if option.section != section:
            section = option.section
            lines += ["", f"### {section}", "", "| key | option | default | meaning |", "|---|---|---|---|"]
        value = f"`{default(option)}`" if default(option) and not option.required else default(option).strip("()")
        lines.append(
            f"| `{option.key}` | `{spelling(option)}` | {value} | {described(option).replace('|', '&#124;')} |"
        )
    return lines


def data_sources() -> list[str]:
    lines = [
        "",
        "## A data set in `data` and `eval_data`",
        "",
        "Each is a path, or in a settings file a mapping of these keys:",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    for option in options(DataSource):
        value = f"`{default(option)}`" if default(option) and not option.required else default(option).strip("()")
        lines.append(f"| `{option.key}` | {value} | {option.help} |")
    return lines


def text() -> str:
    lines = [OPENING]
    for command, settings in COMMANDS.items():
        lines += ["", f"## heed {command}", "", summary(settings), *table(settings)]
    return "\n".join([*lines, *data_sources(), ""])


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    print(f"{PAGE.relative_to(Path.cwd())} written")
