"""What a card of a data set says, as Markdown in which text of others is text: no link, no markup, no HTML."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

MARKUP = re.compile(r"[\\`*_{}\[\]()#+!|~:@$^=]|(?<=www)\.")
"""punctuation that may begin something in Markdown, which a backslash takes its meaning from"""
INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
LONGEST = 600
"""characters of a text in an example"""
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LARGER = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"))
OF_THE_HUB = """
apache-2.0 mit openrail bigscience-openrail-m bsd bsd-2-clause bsd-3-clause c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 agpl-3.0 gfdl isc mpl-2.0 odbl odc-by pddl unlicense
wtfpl zlib unknown other llama2 llama3 llama3.1 llama3.2 llama3.3 gemma
"""
LICENCES = frozenset(OF_THE_HUB.split())
"""identifiers that the hub knows; it refuses a card with another one, unless that is the name of an `other`"""


def inert(text: str) -> str:
    """Text of others inside a line of Markdown, seen as it is written."""
    shown = "".join(_seen(character) for character in " ".join(text.split()))
    return MARKUP.sub(lambda found: "\\" + found[0], html.escape(shown, quote=False))


def _seen(character: str) -> str:
    return f"‹U+{ord(character):04X}›" if unicodedata.category(character) in INVISIBLE else character


def fenced(record: Any) -> str:
    """A record as a block of JSON that nothing in it can end, its long texts shortened and nothing in it invisible."""
    written = json.dumps(_shortened(record), ensure_ascii=False, indent=2, default=str)
    shown = "".join(_escaped(character) for character in written)
    return f"```json\n{shown}\n```"  # a line of JSON begins with no backtick, for its line ends are escaped


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"{value[:LONGEST]}… ({len(value) - LONGEST:,} more characters)"
    if isinstance(value, Mapping):
        return {str(key): _shortened(item) for key, item in value.items()}
    return [_shortened(item) for item in value] if isinstance(value, list | tuple) else value


def _escaped(character: str) -> str:
    """As JSON writes a character that no one would see."""
    if character == "\n" or unicodedata.category(character) not in INVISIBLE:
        return character
    return json.dumps(character)[1:-1]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are Markdown already; the columns `numbers` stand to the right."""
    rule = ["---:" if place in numbers else "---" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def front_matter(told: Mapping[str, Any]) -> str:
    """The YAML that the hub reads, between its two rules."""
    return f"---\n{yaml.safe_dump(dict(told), sort_keys=False, allow_unicode=True, width=1_000)}---\n"


def size_category(num_records: int) -> str:
    """The hub's word for how many records there are."""
    return next((name for limit, name in SIZES + LARGER if num_records < limit), "100B<n<1T")


def licence_keys(licence: str | None) -> dict[str, str]:
    """What the front matter says of a licence: one that the hub does not know has the name of an other one."""
    if licence is None:
        return {}
    known = licence.strip().lower()
    if known in LICENCES:
        return {"license": known}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", known).strip("-") or "other"}
