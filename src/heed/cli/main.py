"""The commands of `heed`: words in, a recipe run, and one of four exit statuses out.

0 done; 2 a mistake of the user's, told in five parts and without a traceback; 130 stopped with Ctrl-C, 143 by SIGTERM;
1 with a traceback is a fault of heed's own.
"""

from __future__ import annotations

import importlib
import io
import os
import shutil
import sys
from collections.abc import Sequence

from heed.allocator import keep_freed_memory
from heed.cli.alone import refuse_processes
from heed.cli.parse import parse
from heed.cli.settings_of_eval import is_eval
from heed.cli.usage import overview, usage
from heed.cli.waiting import wait_briefly_if_busy
from heed.config import (
    ChatSettings,
    DemoSettings,
    MergeSettings,
    ReportSettings,
    SftSettings,
    ShowSettings,
)
from heed.data_config import (
    DataCheckSettings,
    DataDecontaminateSettings,
    DataDedupeSettings,
    DataMendSettings,
    DataSelectSettings,
)
from heed.data_mix_config import DataCardSettings, DataMixSettings
from heed.errors import UserError, refuse_windows
from heed.eval_config import CalibrateSettings, EvalSettings, KnownSettings, StrangeSettings
from heed.export_config import ExportSettings
from heed.plan_config import PlanSettings
from heed.preference_config import DpoSettings, GrpoSettings, PpoSettings, RewardSettings
from heed.settings import Settings, load_settings, nearest, options

COMMANDS: dict[str, type[Settings]] = {
    "demo": DemoSettings,
    "sft": SftSettings,
    "reward": RewardSettings,
    "ppo": PpoSettings,
    "dpo": DpoSettings,
    "grpo": GrpoSettings,
    "plan": PlanSettings,
    "show": ShowSettings,
    "calibrate": CalibrateSettings,
    "chat": ChatSettings,
    "eval": EvalSettings,
    "known": KnownSettings,
    "strange": StrangeSettings,
    "merge": MergeSettings,
    "export": ExportSettings,
    "report": ReportSettings,
    "data check": DataCheckSettings,
    "data mend": DataMendSettings,
    "data dedupe": DataDedupeSettings,
    "data decontaminate": DataDecontaminateSettings,
    "data select": DataSelectSettings,
    "data mix": DataMixSettings,
    "data card": DataCardSettings,
}
"""what each command of one word, or of two, is told"""
TRAINING = ("sft", "reward", "ppo", "dpo", "grpo")
"""commands that divide their work among the processes that torchrun starts"""
RUN = {
    **{name: f"heed.recipes.{name}:run" for name in TRAINING},
    **{name: f"heed.cli.{name}:run" for name in ("demo", "show", "chat", "calibrate", "eval", "known", "strange")},
    **{name: f"heed.cli.{name}:run" for name in ("merge", "export", "report", "plan")},
    **{f"data {name}": f"heed.cli.data_{name}:run" for name in ("check", "mend", "dedupe", "decontaminate")},
    **{f"data {name}": f"heed.cli.data_{name}:run" for name in ("select", "mix", "card")},
}
"""what each command calls with its settings: a recipe, or what prints what a recipe found"""
POSITIONAL = {
    "calibrate": "run",
    "show": "data",
    "chat": "model",
    "strange": "model",
    "merge": "model",
    "plan": "model",
    "export": "model",
    "report": "runs",
    "data check": "data",
    "data mend": "data",
    "data dedupe": "data",
    "data decontaminate": "data",
    "data select": "data",
    "data mix": "data",
    "data card": "data",
}
"""the option that a word without a flag belongs to"""
AGAIN = {
    **dict.fromkeys(TRAINING, "; the same command goes on from the last checkpoint"),
    **dict.fromkeys(("demo", "eval", "known"), "; the same command goes on from where it was"),
}
"""what is said of a command that was stopped with Ctrl-C"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # nothing leaves the machine
    keep_freed_memory()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # What is read and shown is text in any language, whatever the terminal's locale says.
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(encoding="utf-8")
    try:
        _command(words)
        sys.stdout.flush()
    except UserError as error:
        return 2 if error.is_told else _tell(error)
    except KeyboardInterrupt:
        again = AGAIN.get(words[0], "") if words else ""
        print(f"\nstopped{again}", file=sys.stderr)
        return 130
    except SystemExit as end:
        if end.code == 143:
            print(f"\nstopped{AGAIN.get(words[0], '')}", file=sys.stderr)
        raise
    except BrokenPipeError:
        # The reader (`head`, a pager) has what it wanted. Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from heed.cli.memory import full_memory
        from heed.files import full_disk

        full = full_disk(error) or full_memory(error)
        if full is None:
            raise
        return _tell(full)
    return 0


def _command(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(COMMANDS), end="")
        return
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(version("heed-lm"))
        return
    group = {name: settings for name, settings in COMMANDS.items() if name.startswith(f"{words[0]} ")}
    if group and (len(words) == 1 or words[1] in ("-h", "--help", "help")):
        print(overview(group, words[0]), end="")
        return
    num_words = 2 if group else 1
    name = " ".join(words[:num_words])
    if name not in COMMANDS:
        known = list(group or COMMANDS)
        near = nearest(name, known)
        raise UserError(
            f"unknown command '{name}'",
            where="command line",
            found=name,
            expected=f"one of {', '.join(known)}",
            fix=f"did you mean 'heed {near}'?" if near else "heed --help lists the commands",
        )
    _run(name, words[num_words:])


def _run(command: str, words: Sequence[str]) -> None:
    cls = COMMANDS[command]
    said = parse(
        words, options(cls), positional=POSITIONAL.get(command), renamed=cls.renamed, switches=cls.former_switches
    )
    if said.wants_help:
        columns = shutil.get_terminal_size((120, 24)).columns
        print(usage(command, cls, columns=columns, topic=said.topic), end="")
        return
    refuse_windows()
    if command not in TRAINING:
        refuse_processes(command, words, TRAINING)
    if cls is ShowSettings and said.settings_file is not None and is_eval(said.settings_file):
        from heed.cli.show_eval import show_eval

        show_eval(said.settings_file, said.overrides)
        return
    settings = load_settings(cls, said.settings_file, said.overrides)
    # Imported here, so that help and mistakes are answered before torch is loaded.
    wait_briefly_if_busy()
    module, _, function = RUN[command].partition(":")
    getattr(importlib.import_module(module), function)(settings)


def _tell(error: UserError) -> int:
    red, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    sys.stdout.flush()
    print(f"{red}error:{plain} {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
