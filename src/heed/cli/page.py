"""The page that `heed show --html` writes: one file, no script, no network, light and dark, screen and paper."""

from __future__ import annotations

import html
import itertools
import unicodedata
from collections.abc import Sequence

from heed.recipes.show import Piece, Shown
from heed.types import Finding

JOINERS = "\u200c\u200d"
"""zero-width, but emoji and several scripts fall apart if they are replaced"""

STYLE = """
:root { color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #1c1c1a; --quiet: #63635e; --line: #dddcd6;
  --context: #5b5b56; --context-alternate: #f0efeb; --trained-1: #c9efd0; --trained-2: #a5e0b1; --trained-ink: #10331b;
  --finding: #9a2a14; }
@media (prefers-color-scheme: dark) { :root {
  --page: #161615; --card: #1f1f1d; --ink: #ececE6; --quiet: #a3a39c; --line: #3a3a36;
  --context: #b4b4ad; --context-alternate: #2b2b28; --trained-1: #1f5a33; --trained-2: #2a7444; --trained-ink: #eafff0;
  --finding: #ff9d85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
.dataset { margin: 2rem 0 0; }
p { margin: .25rem 0; color: var(--quiet); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem;
  margin: 1rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0 0; color: var(--context);
  font: .875rem/1.75 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre span { border-radius: .2em; padding: .1em 0; }
pre span:nth-of-type(even) { background: var(--context-alternate); }
pre span.t { background: var(--trained-1); color: var(--trained-ink); }
pre span.t:nth-of-type(even) { background: var(--trained-2); }
pre span.s { border-bottom: 1px dotted; }
pre i { font-style: normal; opacity: .7; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .75rem; margin: .5rem 0 0; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
.finding h2 { color: var(--finding); }
@media print { body { max-width: none; padding: 0; } article { break-inside: avoid; border-color: #999; }
  pre span { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  pre span.t { text-decoration: underline; text-underline-offset: .2em; } }
"""

LEGEND = (
    '<pre><span class="t">trained</span><span class="t"> tokens</span>, <span>context</span><span> tokens</span>; '
    'each shade is one token. <span class="s">What another answer begins with, too</span> is computed once. '
    "<i>⏎</i> is a line end.</pre>"
)


def page(items: Sequence[Shown | Finding]) -> str:
    """The whole page."""
    shown = [item for item in items if isinstance(item, Shown)]
    num_tokens, num_trained = sum(len(item.tokens) for item in shown), sum(item.num_trained for item in shown)
    datasets = ", ".join(dict.fromkeys(map(_dataset, items)))
    totals = (
        f"{len(shown):,} sequences, {num_tokens:,} tokens, {num_trained:,} trained "
        f"({num_trained / max(num_tokens, 1):.0%})"
    )
    if len(items) > len(shown):
        totals += f"; records that cannot be used: {len(items) - len(shown):,}"
    body = "\n".join(
        f'<h2 class="dataset">{html.escape(dataset)}</h2>\n'
        + "\n".join(_finding(item) if isinstance(item, Finding) else _sequence(item) for item in group)
        for dataset, group in itertools.groupby(items, key=_dataset)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What is trained in {html.escape(datasets)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>What is trained</h1>\n<p>{totals}</p>\n{LEGEND}\n{body}\n"
        "</body>\n</html>\n"
    )


def _dataset(item: Shown | Finding) -> str:
    return item.origin.path if isinstance(item, Finding) else item.dataset


def _sequence(item: Shown) -> str:
    pieces = "".join(map(_piece, item.pieces))
    return f'<article>\n<h2>{html.escape(counts(item))}</h2>\n<pre dir="auto">{pieces}</pre>\n</article>'


def _piece(piece: Piece) -> str:
    what = ("tokens " if len(piece.ids) != 1 else "token ") + ", ".join(map(str, piece.ids))
    weight = f", weight {piece.weight:g}" if piece.weight else ""
    classes = " ".join(name for name, holds in (("t", piece.weight), ("s", piece.is_shared)) if holds)
    mark = f' class="{classes}"' if classes else ""
    return f'<span{mark} title="{what}{weight}">{"".join(map(_character, piece.text))}</span>'


def _character(character: str) -> str:
    seen = visible(character)
    if seen == character:
        return html.escape(character)
    mark, space = (seen[:-1], seen[-1]) if seen[-1].isspace() else (seen, "")
    return f"<i>{html.escape(mark)}</i>{space}"


def _finding(item: Finding) -> str:
    rows = "".join(
        f"<dt>{name}</dt><dd>{html.escape(getattr(item, name))}</dd>" for name in ("found", "expected", "fix")
    )
    return (
        f'<article class="finding">\n<h2>record {item.origin.record:,} cannot be used: '
        f"{html.escape(item.problem)}</h2>\n<dl>{rows}</dl>\n</article>"
    )


def counts(item: Shown) -> str:
    """One line: `record 3: 58 tokens, 21 trained (36%), 1 turn, template alpaca`.

    Of a prompt, which has no turns to train: `record 3, a prompt: 37 tokens, 0 trained (0%), template alpaca`.
    Of a ranked answer: `record 3, answer 2 of 4, score 1, ties with 3: 58 tokens, 37 of them shared, 21 trained ...`.
    """
    num_tokens, num_trained = len(item.tokens), item.num_trained
    num_turns = len(item.rendered.spans)
    weights = sorted({float(weight) for weight in item.tokens.weight if weight != 0})
    which = f", sequence {item.sequence} of {item.num_sequences}" if item.num_sequences > 1 else ""
    standing = item.standing
    if standing is not None:
        which += f", answer {standing.answer} of {standing.num_answers}"
        which += "" if standing.score is None else f", score {standing.score:g}"
        which += f", ties with {' and '.join(map(str, standing.ties_with))}" if standing.ties_with else ""
    if item.is_prompt:
        which += ", a prompt"
    if item.is_desirable is not None:
        which += ", an answer to give" if item.is_desirable else ", an answer not to give"
    parts = [
        f"record {item.rendered.origin.record:,}{which}: {num_tokens:,} tokens",
        *([] if standing is None else [f"{standing.num_shared:,} of them shared"]),
        f"{num_trained:,} trained ({num_trained / max(num_tokens, 1):.0%})",
        *([] if item.is_prompt else [f"{num_turns} {'turn' if num_turns == 1 else 'turns'}"]),
        f"template {item.template}",
    ]
    if weights not in ([], [1.0]):
        parts.insert(-2, "weight " + ", ".join(f"{weight:g}" for weight in weights))
    left_out = standing.left_out if standing is not None else ()
    return ", ".join(parts) + "".join(f"; left out: {each}" for each in left_out)


def visible(character: str) -> str:
    """A line end, a tab or a character that prints as nothing, made to be seen; any other as it is."""
    if character == "\n":
        return "⏎\n"
    if character == "\t":
        return "⇥\t"
    if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") and character not in JOINERS:
        return f"<U+{ord(character):04X}>"
    return character
