"""An answer that goes on from words of the assistant's: trained from where they end."""

from __future__ import annotations

from dataclasses import replace

from heed.types import Finding, Rendered


def going_on(rendered: tuple[Rendered, ...], opening: Rendered | Finding) -> tuple[Rendered, ...] | Finding:
    """The renders of a conversation, of which the answer to this prompt is trained from where the prompt ends.

    Args:
        opening: the prompt, which ends with the assistant's own words. The render of the answer begins with all of
            it, or what the model reads at inference is not what it was trained on.
    """
    if isinstance(opening, Finding):
        return opening
    start = len(opening.text)
    for number, each in enumerate(rendered):
        spans = tuple(replace(s, start=start) if s.start <= start < s.stop else s for s in each.spans)
        if each.text.startswith(opening.text) and spans != each.spans:
            return (*rendered[:number], replace(each, spans=spans), *rendered[number + 1 :])
    return Finding(
        "the answer does not go on from the assistant's words in the prompt",
        opening.origin,
        f"a prompt that ends in {opening.text[-60:]!r}, which the render with the answer does not begin with",
        "a template that shows the two as one message",
        "put the assistant's words into the answers, or choose another --template",
    )
