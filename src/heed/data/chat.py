"""Conversations as the model will read them, with the characters it is trained to write marked and proved."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heed.data.render import REASONING_FIELDS, ChatTemplate, message_fields, plain_data, reasoning_of
from heed.data.stops import Endings, endings, forbidden_pattern
from heed.errors import UserError
from heed.types import Conversation, Finding, Message, Rendered, Span

_PRIVATE_USE = re.compile("[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
_PRIVATE_RANGES = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_THINK_TAG = re.compile("(</?think>)")

Fields = dict[str, Any]
Place = tuple[int, int]
"""where a text stands in a render: first character, and one past the last"""


def masked(conversation: Conversation, template: ChatTemplate) -> tuple[Rendered, ...] | Finding:
    """Render a conversation and prove which of its characters are the assistant's.

    Returns the whole conversation with the spans of its trained turns, then one branch for each turn that has to be
    trained apart: a turn whose prompt at inference is not how the whole conversation begins, or whose text the whole
    conversation does not show. A branch is that prompt and the response to it. A span starts where the prompt at
    inference ends and runs to the end of the stop token. What cannot be proved is a finding, never a guess.
    """
    try:
        return _Chat(conversation, template).rendered()
    except UserError as error:
        origin = conversation.origin
        found = error.found if error.where == str(origin) else f"{error.found} ({error.where})"
        return Finding(error.problem, origin, found, error.expected, error.fix)


def inference_prompt(
    messages: Sequence[Message],
    template: ChatTemplate,
    tools: Sequence[Mapping[str, Any]] = (),
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """What the model reads before it writes the next message of this conversation."""
    return template.render(messages, tools, True, arguments)


@dataclass(frozen=True, slots=True)
class _Turn:
    """Where an assistant message's texts stand in a render: its reasoning first, the answer last. None if lost."""

    places: tuple[Place | None, ...]

    @property
    def is_complete(self) -> bool:
        return None not in self.places

    @property
    def start(self) -> int | None:
        return min((place[0] for place in self.places if place), default=None)

    @property
    def stop(self) -> int | None:
        return max((place[1] for place in self.places if place), default=None)


class _Chat:
    """One conversation under one template while its mask is worked out."""

    def __init__(self, conversation: Conversation, template: ChatTemplate) -> None:
        self.conversation, self.template = conversation, template
        self.fields = [message_fields(message) for message in conversation.messages]
        self.turns = [i for i, m in enumerate(conversation.messages) if m.role == "assistant" and m.weight > 0]
        self.prompts: dict[int, str] = {}

    def rendered(self) -> tuple[Rendered, ...]:
        self.check_record()
        origin = self.conversation.origin
        text = self.render(self.fields)
        places = self.find_turns(self.fields, text, self.turns)
        spans: list[Span] = []
        branches: list[Rendered] = []
        for turn in self.turns:
            weight = self.conversation.messages[turn].weight
            place = self.place_in_whole(turn, text, places[turn])
            if place is not None and (not spans or spans[-1].stop <= place[0]):
                spans.append(Span(*place, weight))
            else:
                prompt, response = self.prompt(turn), self.response(turn)
                span = Span(len(prompt), len(prompt) + len(response), weight)
                branches.append(Rendered(prompt + response, (span,), origin))
        return (*([Rendered(text, tuple(spans), origin)] if spans else []), *branches)

    def render(self, fields: list[Fields], add_generation_prompt: bool = False) -> str:
        given = self.conversation
        return self.template.render_fields(fields, given.tools, add_generation_prompt, given.template_arguments)

    def prompt(self, turn: int) -> str:
        """What the model will have read when it is to write this turn."""
        if turn not in self.prompts:
            self.prompts[turn] = self.render(self.fields[:turn], add_generation_prompt=True)
        return self.prompts[turn]

    @property
    def endings(self) -> Endings:
        arguments = self.conversation.template_arguments
        text = json.dumps(plain_data(arguments), sort_keys=True) if arguments else "{}"
        return endings(self.template, bool(self.conversation.tools), text)

    def problem(self, problem: str, *, found: str, expected: str, fix: str) -> UserError:
        return UserError(problem, where=str(self.conversation.origin), found=found, expected=expected, fix=fix)

    # What is refused whatever the template.

    def check_record(self) -> None:
        messages = self.conversation.messages
        if not self.turns:
            roles = ", ".join(m.role for m in messages) or "no messages"
            spoken = any(m.role == "assistant" for m in messages)
            raise self.problem(
                "nothing to train in this conversation" if spoken else "a conversation without an assistant turn",
                found="assistant turns of weight 0 only" if spoken else roles,
                expected="at least one assistant message of weight above 0",
                fix="give it an assistant message to learn from, or remove the record",
            )
        for turn in self.turns:
            if not messages[turn].content.strip() and not self.fields[turn].get("tool_calls"):
                raise self.problem(
                    "an empty response",
                    found=f"message {turn + 1} (assistant) says {messages[turn].content!r}",
                    expected="an assistant message that says something",
                    fix='remove the record, or set "train": false on that message',
                )
        if self.turns[0] == 0:
            raise self.problem(
                "the assistant speaks first",
                found="message 1 is the assistant's, so there is nothing it answers",
                expected="a message before it",
                fix='put a user message before it, or set "train": false on that message',
            )
        self.check_special_tokens()

    def check_special_tokens(self) -> None:
        pattern = forbidden_pattern(self.template)
        given = self.conversation
        for index, fields in enumerate(self.fields):
            # Most messages have a role and a content and nothing more.
            for text in _texts(fields) if len(fields) > 2 else (fields["content"],):
                for match in pattern.finditer(text):
                    if fields["role"] != "assistant" or not _THINK_TAG.fullmatch(match[0]):
                        raise self.special_token(match[0], f"message {index + 1} ({fields['role']})")
        for text in _texts([*given.tools, given.template_arguments]):
            for match in pattern.finditer(text):
                raise self.special_token(match[0], "its tools or template arguments")

    # The proof: texts marked, found again, and gone without a trace when the marks are taken out.

    def find_turns(self, fields: list[Fields], plain: str, turns: list[int]) -> dict[int, _Turn]:
        """Where the texts of these turns stand in the render `plain` of `fields`.

        They are marked outside their white space first, and inside it, thought by thought, where that changes the
        render or loses a mark: templates trim white space and take `<think>` blocks apart.
        """
        found: dict[int, _Turn] = {}
        for mark in (_mark_outside, _mark_inside):
            unused = _unused_characters(plain, (fields[turn] for turn in turns))
            marked, marks = list(fields), {}
            for turn in turns:
                marked[turn], marks[turn] = mark(fields[turn], unused)
            try:
                clean, positions = _without_marks(self.render(marked), marks)
            except UserError:
                continue
            if clean != plain:
                continue
            for turn in turns:
                if turn not in found or not found[turn].is_complete:
                    found[turn] = _Turn(tuple(_place(pair, positions) for pair in marks[turn]))
            if all(found[turn].is_complete for turn in turns):
                break
        return {turn: found.get(turn, _Turn((None,))) for turn in turns}

    def place_in_whole(self, turn: int, text: str, found: _Turn) -> Place | None:
        """Where the turn's response stands in the whole conversation, if it stands there as it will at inference."""
        prompt = self.prompt(turn)
        if not found.is_complete or not text.startswith(prompt):
            return None
        stop = self.stop_of_response(turn, text, len(prompt), found)
        return None if stop is None else (len(prompt), stop)

    def stop_of_response(self, turn: int, text: str, start: int, found: _Turn) -> int | None:
        """One past the stop token of the turn whose response starts at `start`; None if it is not the turn's own."""
        ends, calls = self.endings, self.fields[turn].get("tool_calls")
        stop = ends.tool_stop if calls else ends.stop
        if stop is None and calls:
            raise self.unmaskable(turn, "the template leaves out its tool calls, or ends them without a stop token")
        if stop is None:
            raise self.no_stop_token()
        if found.start is not None and found.start < start:
            return None
        after = start if found.stop is None else found.stop
        at = text.find(stop, after)
        if at < 0:
            return None
        if calls:
            names = _tool_names(calls)
            is_own = all(text.count(name, start, at) >= names.count(name) for name in names)
        else:
            is_own = text[after:at].strip() == ends.closing.strip()
        return at + len(stop) if is_own else None

    # Turns that the whole conversation does not show as they will be at inference.

    def response(self, turn: int) -> str:
        """The response to the turn's prompt, stop token included, read off the conversation that ends with it."""
        fields, prompt = self.fields[: turn + 1], self.prompt(turn)
        text = self.render(fields)
        found = self.find_turns(fields, text, [turn])[turn]
        if text.startswith(prompt):
            return self.proved(turn, text, len(prompt), found)
        tail, base = self.end_of_prompt(turn, prompt, text)
        if text.startswith(tail, base):
            return self.proved(turn, text, base + len(tail), found)
        answer = found.places[-1] if found.places else None
        if answer is not None:
            header = text[base : answer[0]].rstrip()
            if tail.startswith(header) and tail[len(header) :].strip() == "<think>":
                start = self.answer_start(turn, text, answer)
                return self.thought(turn, tail) + self.proved(turn, text, start, _Turn((answer,)))
            header = text[base : found.start]
            if header.strip() and tail.endswith(header):
                return self.proved(turn, text, base + len(header), found)
        ending = repr(tail[-60:])
        raise self.unmaskable(turn, f"the prompt at inference ends in {ending}, which the render does not contain")

    def proved(self, turn: int, text: str, start: int, found: _Turn) -> str:
        if not found.is_complete:
            raise self.unmaskable(turn, "the template leaves out, changes or repeats a part of that message")
        stop = self.stop_of_response(turn, text, start, found)
        if stop is None:
            raise self.unmaskable(turn, "it is not followed by its tool calls, if any, and its stop token")
        return text[start:stop]

    def end_of_prompt(self, turn: int, prompt: str, text: str) -> tuple[str, int]:
        """What the prompt puts after the last message before the turn, and where that message ends in `text`."""
        mark = next(_unused_characters(prompt + text, self.fields[: turn + 1]))
        before = [*self.fields[: turn - 1], {**self.fields[turn - 1], "content": mark}]
        tail = self.render(before, add_generation_prompt=True).rpartition(mark)[2]
        rest = self.render([*before, self.fields[turn]]).rpartition(mark)[2]
        if not (prompt.endswith(tail) and text.endswith(rest)):
            raise self.unmaskable(turn, "where the message before it ends cannot be told")
        return tail, len(text) - len(rest)

    def thought(self, turn: int, prompt_tail: str) -> str:
        """What is said between a prompt that opens a `<think>` block and the answer."""
        content: str = self.fields[turn]["content"]
        reasoning = reasoning_of(self.fields[turn])
        if "</think>" not in content:
            return str(reasoning or "").strip("\n") + "\n</think>\n\n"
        if reasoning is not None:
            raise self.unmaskable(turn, "it has a reasoning field and a <think> block")
        answer = content.rpartition("</think>")[2].lstrip()
        thought = content[: len(content) - len(answer)]
        if thought.lstrip().startswith("<think>"):
            thought = thought.lstrip().removeprefix("<think>")
            thought = thought.removeprefix("\n") if prompt_tail.endswith("\n") else thought
        if "<think>" in thought or thought.count("</think>") > 1:
            raise self.unmaskable(turn, "it has more than one <think> block, or words before it")
        return thought

    def answer_start(self, turn: int, text: str, answer: Place) -> int:
        """Where the answer starts with its own leading white space, where the template kept that."""
        content = self.fields[turn]["content"]
        blank = content[: len(content) - len(content.lstrip())]
        keeps = "</think>" not in content and text[answer[0]].strip() and text.endswith(blank, 0, answer[0])
        return answer[0] - len(blank) if keeps else answer[0]

    # Reasons.

    def special_token(self, token: str, where: str) -> UserError:
        return self.problem(
            "special-token text in the data",
            found=f"{token!r} in {where}",
            expected="text without the special tokens of the tokenizer and the chat template",
            fix=f"remove or rewrite {token!r} there, or remove the record",
        )

    def unmaskable(self, turn: int, found: str) -> UserError:
        return self.problem(
            "what is trained cannot be told under this chat template",
            found=f"message {turn + 1} (assistant): {found}",
            expected=f"a template that shows the message whole, once, after its prompt ({self.template.name})",
            fix='choose another --template, or set "train": false on that message',
        )

    def no_stop_token(self) -> UserError:
        return self.problem(
            "the chat template cannot be masked: a model trained with it would never stop",
            found=f"no special token after the assistant's answer in {self.template.name}",
            expected="a stop token there",
            fix="write {{ eos_token }} after the assistant's content in a jinja file, and use --template FILE.jinja",
        )


def _mark_outside(fields: Fields, unused: Iterator[str]) -> tuple[Fields, list[tuple[str, str]]]:
    """The message with a pair of marks around each of its texts, and the pairs."""
    pairs: list[tuple[str, str]] = []

    def around(text: str) -> str:
        pairs.append((next(unused), next(unused)))
        return pairs[-1][0] + text + pairs[-1][1]

    return _with_texts(fields, around), pairs


def _mark_inside(fields: Fields, unused: Iterator[str]) -> tuple[Fields, list[tuple[str, str]]]:
    """The message with a pair of marks inside the white space of each text and each side of its `<think>` tags."""
    pairs: list[tuple[str, str]] = []

    def around(text: str) -> str:
        pieces = _THINK_TAG.split(text)
        for index in range(0, len(pieces), 2):
            core = pieces[index].strip()
            if core:
                pairs.append((next(unused), next(unused)))
                before, _, after = pieces[index].partition(core)
                pieces[index] = before + pairs[-1][0] + core + pairs[-1][1] + after
        return "".join(pieces)

    return _with_texts(fields, around), pairs


def _with_texts(fields: Fields, change: Callable[[str], str]) -> Fields:
    """The message with its reasoning, under each name it goes by, and its content changed where they say something."""
    changed = dict(fields)
    reasoning = reasoning_of(fields) if len(fields) > 2 else None
    if isinstance(reasoning, str) and reasoning.strip():
        text = change(reasoning)
        changed.update({name: text for name in REASONING_FIELDS if fields.get(name) == reasoning})
    if fields["content"].strip():
        changed["content"] = change(fields["content"])
    return changed


def _without_marks(text: str, marks: Mapping[int, list[tuple[str, str]]]) -> tuple[str, dict[str, list[int]]]:
    """The text without marks, and for each mark where in that text it stood."""
    known = {mark for pairs in marks.values() for pair in pairs for mark in pair}
    positions: dict[str, list[int]] = {mark: [] for mark in known}
    pieces, length, last = [], 0, 0
    for match in _PRIVATE_USE.finditer(text):
        if match[0] in known:
            pieces.append(text[last : match.start()])
            length += match.start() - last
            last = match.end()
            positions[match[0]].append(length)
    return "".join((*pieces, text[last:])), positions


def _place(pair: tuple[str, str], positions: Mapping[str, list[int]]) -> Place | None:
    start, stop = (positions[mark] for mark in pair)
    return (start[0], stop[0]) if len(start) == len(stop) == 1 and start[0] < stop[0] else None


def _unused_characters(render: str, messages: Any) -> Iterator[str]:
    """Private-use characters that stand neither in the render nor in the messages."""
    used = set(_PRIVATE_USE.findall(render))
    for fields in messages:
        for text in _texts(fields):
            used.update(_PRIVATE_USE.findall(text))
    return (chr(code) for codes in _PRIVATE_RANGES for code in codes if chr(code) not in used)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value made of dictionaries and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _tool_names(calls: Any) -> list[str]:
    """The functions that a message's tool calls name, with and without OpenAI's inner object."""
    return [str(call.get("function", call).get("name", "")) for call in calls]
