"""Talk to a model: a history of messages, rendered with the model's chat template, answered token by token.

messages -> rendered chat -> tokens -> answer, told as it is drawn -> messages
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import tokenizers
import torch

from heed.config import ChatSettings
from heed.data.chat import inference_prompt
from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.stops import forbidden_pattern
from heed.data.tokens import Tokenizer, fit_template
from heed.errors import UserError
from heed.evaluate.strange import Detector
from heed.models.decode.sample import Sampling, stream
from heed.models.intake.access import Access
from heed.models.intake.vocabulary import fit_vocabulary
from heed.models.load import LoadedModel, choose_device, load_model, load_tokenizer, num_positions
from heed.recipes.honesty import Honesty, does_not_know, honesty_for
from heed.recipes.strange import find_detector, state_of_prompt
from heed.recipes.training.setup import answers_end, refuse_reward_model, wrapped
from heed.types import Message

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""what a tokenizer decodes a part of a character to"""

MAX_CONTEXT_TOKENS = 16


class Ending(Enum):
    """Why an answer is over."""

    STOPPED = "stopped"
    """the model wrote a stop token"""
    LIMIT = "limit"
    """as long as `max_new_tokens` allows"""
    POSITIONS = "positions"
    """the model has no position for a further token"""
    INTERRUPTED = "interrupted"
    """the user had enough"""
    WITHHELD = "withheld"
    """the confidence was below the threshold"""


@dataclass(eq=False)
class Chat:
    """A conversation with a model. `messages` is all of it, and all of it is what the model reads."""

    loaded: LoadedModel
    tokenizer: Tokenizer
    template: ChatTemplate
    stop_ids: list[int]
    settings: ChatSettings
    honesty: Honesty | None = None
    """what is known of how far this model's answers can be trusted"""
    confidence: float | None = None
    """that the last answer is right; None where nothing is known of it"""
    messages: list[Message] = field(default_factory=list)
    detector: Detector | None = None
    """tells prompts that are unlike those the model was tuned on"""
    p_strange: float | None = None
    """of the last prompt, from 0 to 1; small: it is strange"""

    def start_anew(self) -> None:
        """Forget everything but the system prompt."""
        self.messages = [] if self.settings.system is None else [Message("system", self.settings.system)]

    def answer(self, text: str, on_text: Callable[[str], None]) -> Ending:
        """Let the model answer a user's message, and keep both; `on_text` is called with the answer piece by piece.

        Where answers may be withheld, an answer is told when it is whole, or in its place that the model does not know.
        Ctrl-C ends the answer where it is. A `UserError`, or Ctrl-C before anything was said, leaves the conversation
        as it was.
        """
        self.refuse_special_tokens("your message", text)
        asked = [*self.messages, Message("user", text)]
        prompt = self.tokenizer.encode(inference_prompt(asked, self.template))
        room = self.room(prompt)
        if self.detector is not None:
            self.p_strange = self.detector.p_value(state_of_prompt(self.loaded.model, prompt))
        spelling = Spelling(self.tokenizer.backend, prompt)
        pieces: list[str] = []
        last: list[int] = []
        logps: list[float] = []
        tell = on_text if not self.settings.abstain else lambda piece: None

        def hear(token: int, logp: float) -> None:
            last[:] = [token]
            logps.append(logp)
            piece = spelling.add(token) if token not in self.stop_ids else spelling.rest()
            if piece:
                pieces.append(piece)
                tell(piece)

        limit = self.settings.max_new_tokens
        ending = Ending.LIMIT if room is None or limit <= room else Ending.POSITIONS
        try:
            stream(
                self.loaded.model,
                prompt,
                stop_ids=self.stop_ids,
                max_new_tokens=limit if room is None else min(limit, room),
                sampling=Sampling(self.settings.temperature, self.settings.top_p),
                on_token=hear,
            )
        except KeyboardInterrupt:
            ending = Ending.INTERRUPTED
        if last and last[0] in self.stop_ids:
            ending = Ending.STOPPED
        elif ending is not Ending.INTERRUPTED and (piece := spelling.rest()):
            pieces.append(piece)
            tell(piece)
        pieces, ending = self._judged(text, pieces, logps, ending, on_text)
        if pieces or ending is not Ending.INTERRUPTED:
            self.messages = [*asked, Message("assistant", "".join(pieces))]
        return ending

    def _judged(
        self, text: str, pieces: list[str], logps: list[float], ending: Ending, on_text: Callable[[str], None]
    ) -> tuple[list[str], Ending]:
        """What is said in the end: the answer, or where its confidence is too low that the model does not know."""
        self.confidence = None
        if ending is Ending.INTERRUPTED:  # what was not told is not said, and half an answer has no confidence
            return [] if self.settings.abstain else pieces, ending
        if self.honesty is not None:
            self.confidence = self.honesty.confidence(logps)
        if not self.settings.abstain:
            return pieces, ending
        if self.honesty is not None and self.confidence is not None and self.honesty.withholds(self.confidence):
            pieces, ending = [does_not_know(text)], Ending.WITHHELD
        on_text("".join(pieces))
        return pieces, ending

    def room(self, prompt: Sequence[int]) -> int | None:
        """Tokens that an answer may have after this prompt; None where the model has no limit."""
        limit = num_positions(self.loaded.model)
        if limit is None or len(prompt) < limit:
            return None if limit is None else limit - len(prompt)
        begun = len(self.messages) > (self.settings.system is not None)
        raise UserError(
            "the conversation is longer than the model can read",
            where="the conversation so far" if begun else "your message",
            found=f"{len(prompt):,} tokens",
            expected=f"fewer than {limit:,}, the model's positions",
            fix="/new starts a new conversation" if begun else "say it in fewer words",
        )

    def refuse_special_tokens(self, what: str, text: str) -> None:
        """A special token in a message would end it, or speak for someone else; tuning refuses it in data as well."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                "this is not Unicode text",
                where=what,
                found=f"U+{ord(text[error.start]):04X} at character {error.start + 1}",
                expected="text in UTF-8",
                fix="type it again; or iconv -t UTF-8 the file that is read",
            ) from None
        if (match := forbidden_pattern(self.template).search(text)) is not None:
            raise UserError(
                "special-token text in a message",
                where=what,
                found=repr(match[0]),
                expected="text without the special tokens of the tokenizer and the chat template",
                fix=f"leave out or rewrite {match[0]!r}",
            )


class Spelling:
    """Turns tokens into text as they come; a character whose tokens are not all there yet is held back.

    Tokens are decoded behind the ones before them, because many tokenizers decode the first token of a text otherwise.
    """

    def __init__(self, backend: tokenizers.Tokenizer, prompt: Sequence[int]) -> None:
        self.backend = backend
        self.pending: list[int] = []
        # Where the context begins inside a character, all bytes that follow would be undecodable with it.
        lengths = range(1, min(len(prompt), MAX_CONTEXT_TOKENS) + 1)
        contexts = (list(prompt[-length:]) for length in lengths)
        self.context = next((context for context in contexts if self._is_whole(self._decode(context))), [])

    def add(self, token: int) -> str:
        """The text that is complete with this token, most often a part of a word; empty where none is."""
        self.pending.append(token)
        piece = self._piece()
        if piece is None or not self._is_whole(piece):
            return ""
        self.context, self.pending = self.pending, []
        return piece

    def rest(self) -> str:
        """What is held back, as far as it can be read."""
        piece = self._piece()
        piece = self._decode(self.pending) if piece is None else piece
        self.context, self.pending = [], []
        return piece

    def _piece(self) -> str | None:
        before, text = self._decode(self.context), self._decode(self.context + self.pending)
        return text[len(before) :] if text.startswith(before) else None

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.backend.decode(list(ids), skip_special_tokens=False)
        return text

    @staticmethod
    def _is_whole(text: str) -> bool:
        return bool(text) and not text.endswith(INCOMPLETE)


def open_chat(settings: ChatSettings, say: Callable[[str], None]) -> Chat:
    """Load the model and settle the template it is spoken to in; `say` is told which."""
    access = Access(settings.trust_remote_code, say)
    refuse_reward_model(settings.model)
    saved_tokenizer = load_tokenizer(settings.model, access)
    tokenizer = wrapped(saved_tokenizer, settings.model, needs_template=settings.template is None)
    template = choose_template(settings, tokenizer, say)
    device = choose_device(settings.device)
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    model = load_model(settings.model, device, dtype, access)
    if fit_vocabulary(model, saved_tokenizer, settings.model, access):
        tokenizer = wrapped(saved_tokenizer, settings.model, needs_template=settings.template is None)
    loaded = LoadedModel(model, saved_tokenizer)
    ends = answers_end(loaded, template, tokenizer)
    honesty = honesty_for(settings, template, tokenizer, say)
    chat = Chat(loaded, tokenizer, template, ends, settings, honesty)
    found = find_detector(settings.model, template, tokenizer)
    chat.detector = found.detector
    if found.note:
        say(found.note)
    if settings.system is not None:
        chat.refuse_special_tokens("--system", settings.system)
    chat.start_anew()
    torch.manual_seed(settings.seed)
    return chat


def choose_template(settings: ChatSettings, tokenizer: Tokenizer, say: Callable[[str], None]) -> ChatTemplate:
    """The template asked for, or the model's own; a model is not spoken to in one it may never have seen unasked."""
    if settings.template is not None:
        say(f"template: {settings.template}")
        return fit_template(ChatTemplate.load(settings.template), tokenizer)
    if tokenizer.template is not None:
        return fit_template(tokenizer.template, tokenizer)
    raise UserError(
        "this model has no chat template",
        where=settings.model,
        found="a tokenizer without a chat template, as base models have",
        expected="a tuned model, or the template to speak to it in",
        fix="--template alpaca",
    )
