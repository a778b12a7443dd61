"""Records as tokens whose answers are known: what choosing among them is computed from.

records -> what supervised tuning would train of each -> prompt and answer, and the answer alone, as token sequences
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np

from heed.config import DataSource
from heed.data.chat import masked
from heed.data.documents import cut, rendered_document
from heed.data.parallel import map_in_processes
from heed.data.prepare import imitated
from heed.data.read import read_nouns
from heed.data.rendering.choice import missing_tokens
from heed.data.rendering.render import ChatTemplate
from heed.data.shapes.recognise import Noun
from heed.data.soundness import check, check_imitation
from heed.data.tokens import Tokenizer, fit_template, tokenise
from heed.errors import UserError, typed
from heed.train.progress import Progress
from heed.types import Document, Finding, Origin, Tokens

NEEDS_NO_NEW_TOKENS = "alpaca"
"""the template of a model that has none of its own: one with turns of its own tokens would need a trained model"""


@dataclass(frozen=True, slots=True)
class Words:
    """How records become a model's tokens."""

    template: ChatTemplate
    tokenizer: Tokenizer
    num_positions: int | None

    @property
    def first_token(self) -> int | None:
        """What an answer is read behind that no prompt stands before: BOS, or end of text where there is none."""
        bos = self.tokenizer.token_id("bos_token")
        return bos if bos is not None else self.tokenizer.token_id("eos_token")


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """One record whose answers can be trained."""

    origin: Origin
    sequences: tuple[Tokens, ...]
    """prompts with answers, the answers' tokens weighing 1; none where no model was named"""
    is_text: bool
    """plain text, which answers nothing"""
    num_characters: int
    """of the answers, or of the text"""

    @property
    def num_tokens(self) -> int:
        """Of the answers, what ends them included."""
        return sum(int(np.count_nonzero(each.weight)) for each in self.sequences)


def open_words(
    model: str, template: str | None, trust_remote_code: bool, say: Callable[[str], None] = lambda line: None
) -> Words:
    """The tokenizer of a model, without its weights, and the template asked for, else its own, else alpaca's.

    Raises:
        UserError: there is no such model, or the template writes tokens that it does not know.
    """
    # Imported late, because it takes seconds, and only who names a model needs it.
    from heed.models.intake.access import Access
    from heed.models.load import positions_at
    from heed.recipes.training.setup import open_tokenizer

    access = Access(trust_remote_code)
    tokenizer = open_tokenizer(model, access)
    if template is None and tokenizer.template is None:
        say(f"template: {NEEDS_NO_NEW_TOKENS}, for this model has none of its own")
    loaded = ChatTemplate.load(template or NEEDS_NO_NEW_TOKENS) if template or not tokenizer.template else None
    chosen = fit_template(loaded or tokenizer.template, tokenizer)  # type: ignore[arg-type]
    if unknown := missing_tokens(chosen, tokenizer):
        raise UserError(
            "the template writes tokens that this model has not learnt",
            where=f"--template {typed(template or chosen.name)}",
            found=", ".join(unknown),
            expected="a template in words that the model knows, for nothing is trained here",
            fix=f"--template {NEEDS_NO_NEW_TOKENS}, or the model that heed sft left: --model RUN",
        )
    return Words(chosen, tokenizer, positions_at(model, access))


def template_without_new_tokens(model: str, template: str | None, trust_remote_code: bool) -> str | None:
    """The template to name to a run that must read records as `open_words` does; None for the model's own."""
    from heed.models.intake.access import Access
    from heed.recipes.training.setup import open_tokenizer

    if template is not None or open_tokenizer(model, Access(trust_remote_code)).template is not None:
        return template
    return NEEDS_NO_NEW_TOKENS


def records_of(
    sources: Sequence[DataSource], words: Words | None, workers: int | None, notes: Counter[str]
) -> Iterator[Answered | Finding]:
    """Every record in order, ready or with the reason why it is not, prepared in several processes."""
    with Progress("reading", unit="records") as progress:
        count = 0
        for source in sources:
            nouns = (noun for _, noun in read_nouns(source.path, source.columns, notes))
            groups = (list(group) for _, group in groupby(nouns, key=lambda noun: noun.origin))
            for found in map_in_processes(partial(answered, words), groups, workers):
                count += 1
                progress.update(count)
                yield found


def answered(words: Words | None, nouns: Sequence[Noun | Finding]) -> Answered | Finding:
    """What one record teaches, as training would prepare it, or why training could not use it."""
    origin = nouns[0].origin
    sequences: list[Tokens] = []
    num_characters = 0
    for noun in nouns:
        if isinstance(noun, Finding):
            return noun
        if isinstance(noun, Document):
            num_characters += len(noun.text)
            if words is not None:
                rendered = rendered_document(noun, words.template, words.tokenizer)
                if isinstance(rendered, Finding):
                    return rendered
                sequences += cut(tokenise(rendered, words.tokenizer).tokens, words.num_positions)
            continue
        conversation = imitated(noun)
        wrong = check_imitation(noun) or check(conversation)
        if wrong is not None:
            return wrong
        trained = [m for m in conversation.messages if m.role == "assistant" and m.weight > 0]
        num_characters += sum(len(message.content) for message in trained)
        if words is not None:
            found = masked(conversation, words.template)
            if isinstance(found, Finding):
                return found
            sequences += [as_ones(tokenise(each, words.tokenizer).tokens) for each in found]
    limit = None if words is None else words.num_positions
    if limit is not None and (longest := max(map(len, sequences), default=0)) > limit:
        return Finding(
            "longer than the model can read",
            origin,
            f"{longest:,} tokens",
            f"at most {limit:,}, the model's positions",
            "shorten or remove the record",
        )
    return Answered(origin, tuple(sequences), isinstance(nouns[0], Document), num_characters)


def as_ones(tokens: Tokens) -> Tokens:
    """The same with every trained token weighing the same, up to the last of them."""
    at = np.flatnonzero(tokens.weight)
    end = int(at[-1]) + 1 if len(at) else len(tokens)
    return replace(tokens, ids=tokens.ids[:end], weight=(tokens.weight[:end] != 0).astype(np.float32))


def with_and_without_prompt(sequence: Tokens, first_token: int | None) -> tuple[Tokens, list[Tokens]]:
    """A prompt with its answers, and every answer alone behind `first_token`, with the same tokens asked for in both.

    Args:
        first_token: where there is none, nothing predicts the first token of an answer that stands alone, so that it is
            not asked for behind the prompt either.
    """
    at = np.flatnonzero(sequence.weight)
    runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []
    weight = sequence.weight.copy()
    alone = []
    for run in runs:
        ids = sequence.ids[run]
        if first_token is None:
            weight[run[0]] = 0
        else:
            ids = np.concatenate([np.array([first_token], dtype=np.int32), ids])
        asked = np.ones(len(ids), dtype=np.float32)
        asked[0] = 0
        alone.append(Tokens(ids, asked))
    return Tokens(sequence.ids, weight), alone
