"""Conversations as the model will read them, with the characters it is trained to write marked and proved."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from heed.data.rendering.begun import going_on
from heed.data.rendering.conventions import TOOL_RESULT, USER, adapted, as_key
from heed.data.rendering.marks import (
    DOCUMENTS,
    THINK_TAG,
    TOOLS,
    Fields,
    Given,
    Place,
    Seen,
    marked,
    seen,
    texts,
    tool_names,
    unused_characters,
    without_marks,
)
from heed.data.rendering.render import ChatTemplate, message_fields, reasoning_of
from heed.data.rendering.special_text import treated, unguarded
from heed.data.rendering.stops import Endings, endings, forbidden_pattern, special_token_pattern
from heed.errors import UserError
from heed.types import Conversation, Finding, Message, Rendered, Span


def masked(conversation: Conversation, template: ChatTemplate) -> tuple[Rendered, ...] | Finding:
    """Render a conversation and prove which of its characters are the assistant's.

    Returns the whole conversation with the spans of its trained turns, then one branch for each turn that has to be
    trained apart: a turn whose prompt at inference is not how the whole conversation begins, or whose text the whole
    conversation does not show. A branch is that prompt and the response to it. A span starts where the prompt at
    inference ends and runs to the end of the stop token. What cannot be proved is a finding, never a guess.
    """
    found = _proved(conversation, template, lambda chat: chat.rendered())
    if isinstance(found, Finding) or not conversation.begun:
        return found
    return going_on(found, asked(replace(conversation, messages=conversation.begun), template))


def asked(conversation: Conversation, template: ChatTemplate) -> Rendered | Finding:
    """What the model reads before it answers these messages: every one of them, which is proved.

    Where the last message is the assistant's, the prompt ends with its words and the answer goes on from them.
    """
    found = _proved(conversation, template, lambda chat: (chat.asked(),))
    return found if isinstance(found, Finding) else found[0]


def _proved(
    conversation: Conversation, template: ChatTemplate, prove: Callable[[_Chat], tuple[Rendered, ...]]
) -> tuple[Rendered, ...] | Finding:
    conversation, guard = treated(conversation, template)
    try:
        rendered = prove(_Chat(conversation, template))
    except UserError as error:
        origin = conversation.origin
        found = error.found if error.where == str(origin) else f"{error.found} ({error.where})"
        return Finding(error.problem, origin, found, error.expected, error.fix)
    return tuple(unguarded(each, guard, template) for each in rendered) if guard else rendered


def inference_prompt(
    messages: Sequence[Message],
    template: ChatTemplate,
    tools: Sequence[Mapping[str, Any]] = (),
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """What the model reads before it writes the next message of this conversation."""
    fields = adapted(template, [message_fields(each) for each in messages], bool(tools), arguments)
    return template.render_fields(fields, tools, True, arguments)


class _Chat:
    """One conversation under one template while its mask is worked out."""

    def __init__(self, conversation: Conversation, template: ChatTemplate) -> None:
        self.conversation, self.template = conversation, template
        fields = [message_fields(message) for message in conversation.messages]
        self.given = Given(fields, conversation.tools, conversation.template_arguments)
        self.turns = [i for i, m in enumerate(conversation.messages) if m.role == "assistant" and m.weight > 0]
        self.prompts: dict[int, str] = {}
        self.goes_on: int | None = None
        """the turn that ends with its words and not with a stop token, for the answer goes on from them"""

    def rendered(self) -> tuple[Rendered, ...]:
        self.check_record()
        origin = self.conversation.origin
        text = self.render(self.given)
        found = self.find(self.given, text, self.turns, self.context(self.turns[-1]))
        spans: list[Span] = []
        branches: list[Rendered] = []
        for turn in self.turns:
            weight = self.conversation.messages[turn].weight
            place = self.place_in_whole(turn, text, found[turn])
            if place is not None and (not spans or spans[-1].stop <= place[0]):
                shown = {i for i, each in found.items() if each.shown_by is not None and each.shown_by <= place[0]}
                spans.append(Span(*place, weight))
            else:
                shown = set()
                prompt, response = self.prompt(turn), self.response(turn)
                span = Span(len(prompt), len(prompt) + len(response), weight)
                branches.append(Rendered(prompt + response, (span,), origin))
            self.refuse_lost(turn, [index for index in self.context(turn) if index not in shown])
        return (*([Rendered(text, tuple(spans), origin)] if spans else []), *branches)

    def asked(self) -> Rendered:
        """The prompt at inference, with the assistant's own words at its end where it has begun to speak."""
        self.check_special_tokens()
        turn = len(self.given.fields)
        last = self.conversation.messages[-1]
        if last.role != "assistant":
            text = self.prompt(turn)
        else:
            turn -= 1
            if not last.content.strip() or last.extra.get("tool_calls"):
                raise self.problem(
                    "the prompt ends with an answer",
                    found=f"message {turn + 1} (assistant), which says {last.content[:40]!r}",
                    expected="words of the assistant's to go on from, or a last message that can be answered",
                    fix="remove the last message, or the record",
                )
            self.goes_on = turn
            text = self.prompt(turn) + self.response(turn)
        self.refuse_lost(turn, self.context(turn))
        return Rendered(text, (), self.conversation.origin)

    def render(self, given: Given, add_generation_prompt: bool = False) -> str:
        fields = adapted(self.template, given.fields, bool(given.tools), given.arguments)
        return self.template.render_fields(fields, given.tools, add_generation_prompt, given.arguments)

    def upto(self, turn: int, *more: Fields) -> Given:
        """What is given of the conversation before this message, and further messages."""
        return replace(self.given, fields=[*self.given.fields[:turn], *more])

    def context(self, turn: int) -> list[int]:
        """All that the model must have read when it is to write this turn: messages, tools and documents."""
        given = self.given
        beside = [TOOLS] * bool(given.tools) + [DOCUMENTS] * bool((given.arguments or {}).get("documents"))
        return [*beside, *range(turn)]

    def prompt(self, turn: int) -> str:
        """What the model will have read when it is to write this turn."""
        if turn not in self.prompts:
            self.prompts[turn] = self.render(self.upto(turn), add_generation_prompt=True)
        return self.prompts[turn]

    @property
    def endings(self) -> Endings:
        return endings(self.template, bool(self.given.tools), as_key(self.given.arguments))

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
            if not messages[turn].content.strip() and not self.given.fields[turn].get("tool_calls"):
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
        if self.template.special_text != "error":
            return
        pattern = forbidden_pattern(self.template)
        given = self.conversation
        for index, fields in enumerate(self.given.fields):
            # Most messages have a role and a content and nothing more.
            for text in texts(fields) if len(fields) > 2 else (fields["content"],):
                for match in pattern.finditer(text):
                    if fields["role"] != "assistant" or not THINK_TAG.fullmatch(match[0]):
                        raise self.special_token(match[0], f"message {index + 1} ({fields['role']})")
        for text in texts([*given.tools, given.template_arguments]):
            for match in pattern.finditer(text):
                raise self.special_token(match[0], "its tools or template arguments")

    # The proof: texts marked, found again, and gone without a trace when the marks are taken out.

    def find(self, given: Given, plain: str, turns: Sequence[int], context: Sequence[int]) -> dict[int, Seen]:
        """Where the texts of these messages stand in the render `plain`; what cannot be found is lost.

        They are marked outside their white space first, and inside it where that changes the render or loses a mark.
        Where marks in the context or in tool calls change the render both ways, the turns' own texts are marked alone.
        """
        found: dict[int, Seen] = {}
        every = tuple(dict.fromkeys((*context, *turns)))
        for which, with_words in ((every, True), (turns, False)):
            for inside in (False, True):
                unused = unused_characters(plain)
                changed, marks = marked(given, which, unused, inside=inside, with_words=with_words)
                try:
                    clean, positions = without_marks(self.render(changed), marks.values())
                except UserError:
                    continue
                if clean == plain:
                    found |= {
                        i: seen(each, positions)
                        for i, each in marks.items()
                        if i not in found or not found[i].is_complete
                    }
                    if all(each.is_complete if i in turns else each.shown_by is not None for i, each in found.items()):
                        break
            if found:
                break
        return {turn: Seen((None,)) for turn in turns} | found

    def place_in_whole(self, turn: int, text: str, found: Seen) -> Place | None:
        """Where the turn's response stands in the whole conversation, if it stands there as it will at inference."""
        prompt = self.prompt(turn)
        if not found.is_complete or not text.startswith(prompt):
            return None
        stop = self.stop_of_response(turn, text, len(prompt), found)
        return None if stop is None else (len(prompt), stop)

    def stop_of_response(self, turn: int, text: str, start: int, found: Seen) -> int | None:
        """One past the stop token of the turn whose response starts at `start`; None if it is not the turn's own."""
        ends, calls = self.endings, self.given.fields[turn].get("tool_calls")
        stop = ends.tool_stop if calls else ends.stop
        if ends.stop is None:
            raise self.no_stop_token()
        if calls and not ends.shows_calls:
            raise self.unmaskable(turn, "the template leaves out its tool calls", needs_tools=True)
        first, last = found.start, found.stop
        if stop is None or (first is not None and first < start):
            return None
        words = [at for at in found.words if at is not None]
        after = max([start, *words] if last is None else [last, *words])
        at = text.find(stop, after)
        if at < 0 or (words and (min(words) <= start or stop in text[start:after])):
            return None
        if calls and not words:  # marks in the names of tools changed the render
            names = tool_names(calls)
            is_own = all(text.count(name, start, at) >= names.count(name) for name in names)
        else:
            is_own = bool(calls) or text[after:at].strip() == ends.closing.strip()
        return at + len(stop) if is_own else None

    def refuse_lost(self, turn: int, unproved: Sequence[int]) -> None:
        """A message, tool or document that the model does not read before the turn that answers it."""
        given = self.upto(turn)
        lost = list(unproved)
        for inside in (False, True):
            if not lost:
                return
            changed, marks = marked(
                given, lost, unused_characters(*texts([given.fields, given.tools, given.arguments])), inside=inside
            )
            try:
                text = self.render(changed, add_generation_prompt=True)
            except UserError:
                continue
            lost = [i for i in lost if not marks[i].are_shown(text)]
        if lost:
            raise self.left_out(lost[0], turn)

    # Turns that the whole conversation does not show as they will be at inference.

    def response(self, turn: int) -> str:
        """The response to the turn's prompt, stop token included, read off the conversation that ends with it."""
        given, prompt = self.upto(turn + 1), self.prompt(turn)
        text = self.render(given)
        found = self.find(given, text, [turn], [])[turn]
        if text.startswith(prompt):
            return self.proved(turn, text, len(prompt), found)
        tail, base = self.end_of_prompt(turn, prompt, text)
        if text.startswith(tail, base):
            return self.proved(turn, text, base + len(tail), found)
        before_thought, tag, after_tag = tail.rpartition("<think>")
        header, answer = before_thought.rstrip(), found.places[-1] if found.places else None
        if tag and not after_tag.strip() and text.startswith(header, base):
            start = base + len(header)
            if answer is not None and not text[start : answer[0]].strip():
                return self.thought(turn, tail) + self.proved(
                    turn, text, self.answer_start(turn, text, answer), replace(found, places=(answer,))
                )
            if answer is None and found.words:
                start += len(text[start:]) - len(text[start:].lstrip())
                return self.thought(turn, tail) + self.proved(turn, text, start, found)
        # The last thing before the turn's own words is what a prompt at inference ends with.
        first = min([at for at in (found.start, *found.words) if at is not None], default=base)
        opening = self.opening(turn)
        at = text.rfind(opening, base, first)
        if opening.strip() and at >= 0:
            return self.proved(turn, text, at + len(opening), found)
        header = text[base : found.start] if found.start is not None else ""
        if header.strip() and tail.endswith(header):
            return self.proved(turn, text, base + len(header), found)
        raise self.unmaskable(
            turn, f"the prompt at inference ends in {tail[-60:]!r}, which the render does not contain"
        )

    def proved(self, turn: int, text: str, start: int, found: Seen) -> str:
        if not found.is_complete:
            of_calls = None in found.words
            part = "a part of its tool calls" if of_calls else "a part of that message"
            raise self.unmaskable(turn, f"the template leaves out, changes or repeats {part}", needs_tools=of_calls)
        if turn == self.goes_on and found.stop is not None and found.start is not None and found.start >= start:
            return text[start : found.stop]
        stop = self.stop_of_response(turn, text, start, found)
        if stop is not None:
            return text[start:stop]
        if found.words and self.endings.tool_stop is None:
            return self.ended_calls(turn, text, start, found)
        raise self.unmaskable(turn, "it is not followed by its tool calls, if any, and its stop token")

    def ended_calls(self, turn: int, text: str, start: int, found: Seen) -> str:
        """Tool calls that the template ends without a stop token, with the one that ends an answer.

        What belongs to the turn is what the render that ends with it and one that goes on have in common, up to the
        special token with which the template opens a turn.
        """
        stop, calls = self.endings.stop, self.given.fields[turn]["tool_calls"]
        after = max(at for at in found.words if at is not None)
        result = {**TOOL_RESULT, "name": tool_names(calls)[-1], "tool_call_id": calls[-1].get("id", "")}
        own: str | None = None
        for follower in (*self.given.fields[turn + 1 : turn + 2], result, USER):
            try:
                longer = self.render(self.upto(turn + 1, follower))
            except UserError:
                continue
            if longer.startswith(text[:after]):
                own = os.path.commonprefix([text[after:], longer[after:]])  # noqa: RUF071 (characters are compared)
                break
        if stop is None or own is None or stop in text[start:after]:
            raise self.unmaskable(turn, "where its tool calls end cannot be told")
        opens = special_token_pattern(self.template).search(self.opening(turn))
        if opens is not None:
            own = own.partition(opens[0])[0]
        # Of several calls the last may be ended where a single one is not.
        return (text[start:after] + own.partition(stop)[0]).rstrip() + stop

    def opening(self, turn: int) -> str:
        """What the template writes for the model to go on from; empty where that cannot be told."""
        before, prompt = self.render(self.upto(turn)), self.prompt(turn)
        return prompt.removeprefix(before) if prompt.startswith(before) else ""

    def end_of_prompt(self, turn: int, prompt: str, text: str) -> tuple[str, int]:
        """What the prompt puts after the last message before the turn, and where that message ends in `text`."""
        fields = self.given.fields
        mark = next(unused_characters(prompt, text))
        before = self.upto(turn - 1, {**fields[turn - 1], "content": mark})
        tail = self.render(before, add_generation_prompt=True).rpartition(mark)[2]
        rest = self.render(replace(before, fields=[*before.fields, fields[turn]])).rpartition(mark)[2]
        if not (prompt.endswith(tail) and text.endswith(rest)):
            raise self.unmaskable(turn, "where the message before it ends cannot be told")
        return tail, len(text) - len(rest)

    def thought(self, turn: int, prompt_tail: str) -> str:
        """What is said between a prompt that opens a `<think>` block and the answer."""
        content: str = self.given.fields[turn]["content"]
        reasoning = reasoning_of(self.given.fields[turn])
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
        content = self.given.fields[turn]["content"]
        blank = content[: len(content) - len(content.lstrip())]
        keeps = "</think>" not in content and text[answer[0]].strip() and text.endswith(blank, 0, answer[0])
        return answer[0] - len(blank) if keeps else answer[0]

    # Reasons.

    def special_token(self, token: str, where: str) -> UserError:
        return self.problem(
            "special-token text in the data",
            found=f"{token!r} in {where}",
            expected="text without the special tokens of the tokenizer and the chat template",
            fix=f"remove or rewrite {token!r} there; or --special-tokens-in-text as-text (or strip)",
        )

    def left_out(self, index: int, turn: int) -> UserError:
        """A part of the conversation that the template drops."""
        given, name = self.given, self.template.name
        instead = "" if name == "chatml" else ", or choose a template that shows it: --template chatml"
        fix = f"write what it says into another message{instead}"
        if index == TOOLS:
            names = ", ".join(str(tool.get("function", tool).get("name")) for tool in given.tools)
            what, fix = f"the list of tools ({names:.80})", f"remove 'tools' from the record{instead}"
        elif index == DOCUMENTS:
            what, fix = "the list of documents", "write them into a message, or remove 'documents' from the record"
        else:
            said = given.fields[index]
            words = repr(said["content"][:40]) if said["content"].strip() else f"calls {tool_names(said['tool_calls'])}"
            what = f"message {index + 1} ({said['role']}), which says {words},"
        return self.problem(
            "the chat template leaves out a part of the conversation",
            found=f"{what} is not in what the model reads before message {turn + 1} (assistant)",
            expected=f"a template that shows all that is answered ({name})",
            fix=fix,
        )

    def unmaskable(self, turn: int, found: str, needs_tools: bool = False) -> UserError:
        shows_calls = needs_tools and self.template.name != "chatml"
        other = "--template chatml shows tool calls" if shows_calls else "choose another --template"
        return self.problem(
            "what is trained cannot be told under this chat template",
            found=f"message {turn + 1} (assistant): {found}",
            expected=f"a template that shows the message whole, once, after its prompt ({self.template.name})",
            fix=f'{other}, or set "train": false on that message',
        )

    def no_stop_token(self) -> UserError:
        return self.problem(
            "the chat template cannot be masked: a model trained with it would never stop",
            found=f"no special token after the assistant's answer in {self.template.name}",
            expected="a stop token there",
            fix="--end-of-turn eos, or {{ eos_token }} after the assistant's content and --template FILE.jinja",
        )
