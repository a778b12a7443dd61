"""The page that `heed data check --html` writes: one file, no script, no network, whatever stands in the data."""

from __future__ import annotations

import html
from collections.abc import Sequence

from heed.cli.page import STYLE, visible
from heed.data_faults import KINDS, LEVELS, OF_ALL, Fault
from heed.errors import typed
from heed.recipes.workshop.check import Checked

OWN_STYLE = """
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .9375rem; }
th { text-align: start; color: var(--quiet); font-weight: 500; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: end; white-space: nowrap; font-variant-numeric: tabular-nums; }
.bars { width: 20%; }
.bar { display: block; height: .3rem; border-radius: .15rem; background: var(--level); min-width: 2px; }
.error { --level: #b3321b; } .warning { --level: #b07d12; } .note { --level: #3f7cab; }
.level { color: var(--level); font-weight: 600; }
h2.level { font-size: 1.0625rem; margin-top: 2rem; }
code { font: .875em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
article p { color: var(--quiet); } article pre { margin: .25rem 0 0; }
a { color: inherit; }
.wide { overflow-x: auto; }
h1 { overflow-wrap: anywhere; }
@media (max-width: 40rem) { .bars { display: none; } }
"""


def page(checked: Checked, paths: Sequence[str]) -> str:
    """The whole page."""
    kinds = checked.in_order()
    names = html.escape(", ".join(paths))
    levels = [KINDS[kind].level for kind in kinds]
    counts = ", ".join(counted(levels, level) for level in LEVELS if level in levels)
    body = "\n".join(_section(kind, checked, paths) for kind in kinds)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What is wrong in {names}</title>\n<style>{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{names}</h1>\n<p>{checked.num_records:,} records: {counts or 'nothing found'}</p>\n"
        f"{_table(kinds, checked)}\n{body}\n{_notes(checked)}</body>\n</html>\n"
    )


def _table(kinds: Sequence[str], checked: Checked) -> str:
    if not kinds:
        return ""
    most = max(checked.num_bad_records[kind] for kind in kinds)
    rows = "".join(_row(kind, checked, most) for kind in kinds)
    head = '<th>kind</th><th class="n">records</th><th class="n">share</th><th class="bars"></th><th>what it is</th>'
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}</table></div>'


def _row(kind: str, checked: Checked, most: int) -> str:
    count, level = checked.num_bad_records[kind], KINDS[kind].level
    return (
        f'<tr class="{level}"><td><a class="level" href="#{kind}">{kind}</a></td><td class="n">{count:,}</td>'
        f'<td class="n">{share_of(kind, checked)}</td>'
        f'<td class="bars"><span class="bar" style="width: {100 * count / most:.1f}%"></span></td>'
        f"<td>{level}: {html.escape(KINDS[kind].means)}</td></tr>\n"
    )


def _section(kind: str, checked: Checked, paths: Sequence[str]) -> str:
    level, todo = KINDS[kind].level, html.escape(fix_of(kind, checked, paths))
    examples = "\n".join(map(_example, checked.examples.get(kind, [])))
    return (
        f'<section class="{level}"><h2 class="level" id="{kind}">{kind}</h2>\n'
        f"<p>{html.escape(KINDS[kind].means)}. What to do: <code>{todo}</code></p>\n"
        f"{examples}\n</section>"
    )


def _example(fault: Fault) -> str:
    found = "".join(map(_character, fault.found))
    return f'<article><p>{html.escape(place_of(fault))}</p><pre dir="auto">{found}</pre></article>'


def _character(character: str) -> str:
    seen = visible(character)
    return html.escape(character) if seen == character else f"<i>{html.escape(seen)}</i>"


def _notes(checked: Checked) -> str:
    if not checked.notes:
        return ""
    lines = "".join(f"<li>{count:,} {html.escape(words)}</li>" for words, count in checked.notes.items())
    return f"<h2>Put right while reading</h2>\n<ul>{lines}</ul>\n"


def counted(levels: Sequence[str], level: str) -> str:
    """`1 kind of errors`."""
    count = levels.count(level)
    return f"{count} {'kind' if count == 1 else 'kinds'} of {level}s"


def share_of(kind: str, checked: Checked) -> str:
    """The share of records that show a kind; a dash for what only all of them show together."""
    return "-" if kind in OF_ALL else f"{100 * checked.num_bad_records[kind] / checked.num_records:.2f}%"


def place_of(fault: Fault) -> str:
    """Where an example stands, in words."""
    return f"{fault.origin}{', ' if fault.where else ''}{fault.where}"


def fix_of(kind: str, checked: Checked, paths: Sequence[str]) -> str:
    """What to type about a kind, with the files in their places."""
    showing = [fault.origin.path for fault in checked.examples.get(kind, [])] or paths
    return KINDS[kind].todo.format(files=" ".join(map(typed, paths)), file=typed(showing[0]))
