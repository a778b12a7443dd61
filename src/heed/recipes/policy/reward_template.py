"""Whether a reward model reads answers under the chat template that it was trained with, which the policy speaks."""

from __future__ import annotations

from collections.abc import Callable

from heed.data.rendering.render import ChatTemplate
from heed.errors import UserError, typed
from heed.models.heads.scalar import read_note
from heed.models.intake.access import Access
from heed.recipes.training.setup import open_tokenizer


def refuse_other_template(reward: str, policy: ChatTemplate, access: Access, say: Callable[[str], None]) -> None:
    """A reward model scores the policy's own tokens; under another template it has never seen anything like them.

    The template that a reward model was trained under is in its tokenizer. One that heed has trained is refused where
    the sources differ; of another classifier it is only said, since nobody knows what it was trained under.

    Args:
        reward: the reward model's folder.
        policy: what the policy speaks.

    Raises:
        UserError: the two are not the same text.
    """
    theirs = open_tokenizer(reward, access).template
    if theirs is not None and theirs.source == policy.source:
        return
    note = read_note(reward)
    if not note or theirs is None:
        has = "names no chat template" if theirs is None else "has another chat template than the policy"
        say(f"the reward model {reward} {has}: it is asked for scores under the policy's, {policy.name}")
        return
    raise UserError(
        "the reward model was trained under another chat template than the policy speaks",
        where=f"--reward {typed(reward)}",
        found=f"a reward model of the template {note.get('template')}, which is another text than {policy.name}",
        expected="one template for both: otherwise every score is of words that the reward model was never shown",
        fix=f"--template {typed(reward)} lets the policy speak the reward model's; or heed reward with the policy as "
        "--model, and without --template",
    )
