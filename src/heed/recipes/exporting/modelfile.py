"""The Modelfile that ollama makes a model from, beside a GGUF file.

ollama does not run the jinja template of a GGUF file; it has templates of its own, in Go's language. Where a jinja
template is nothing but fixed text around each message, the same can be said in Go's, and is; where it is more, nothing
is guessed.

Format: https://docs.ollama.com/modelfile, and for how values are quoted ollama's parser/parser.go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Message = dict[str, str]
Render = Callable[[Sequence[Message], bool], str]
"""messages, and whether the answer is to begin -> the text that the model reads"""

SYSTEM, FIRST, ANSWER, SECOND = "systemSYSTEMsystem", "firstFIRSTfirst", "answerANSWERanswer", "secondSECONDsecond"
"""contents that no template holds"""


@dataclass(frozen=True)
class Around:
    """A template as fixed text around messages."""

    opening: str
    """before a conversation without a system message"""
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    closing: str
    """before the answer that is to be given"""

    def rendered(self, messages: Sequence[Message]) -> str:
        """The text of a conversation that waits for an answer."""
        parts = {"system": self.system, "user": self.user, "assistant": self.assistant}
        said = "".join(f"{parts[m['role']][0]}{m['content']}{parts[m['role']][1]}" for m in messages)
        return f"{'' if messages[0]['role'] == 'system' else self.opening}{said}{self.closing}"


def around(render: Render) -> Around | None:
    """The fixed text that a template puts around messages; None where it does anything else.

    Templates that trim messages, count them, refuse some or write the date are of the other kind.
    """
    try:
        found = _read_off(render)
        agrees = found is not None and all(found.rendered(each) == render(each, True) for each in CONVERSATIONS)
    except Exception:  # a template may refuse a conversation, in whatever way: jinja's, Python's
        return None
    return found if agrees else None


def _said(*contents: str) -> list[Message]:
    roles = {SYSTEM: "system", ANSWER: "assistant"}
    return [{"role": roles.get(content, "user"), "content": content} for content in contents]


def _read_off(render: Render) -> Around | None:
    asked, told, talked = _said(FIRST), _said(FIRST, ANSWER), _said(FIRST, ANSWER, SECOND)
    before_user, after_user = _cut(render(asked, False), FIRST)
    after_answer = _cut(render(told, False), ANSWER)[1]
    between, last = _cut(_cut(render(talked, False), FIRST)[1], ANSWER)
    before_second = _cut(last, SECOND)[0].removeprefix(after_answer)
    before_system, behind = _cut(render(_said(SYSTEM, FIRST), False), SYSTEM)
    closing = render(asked, True).removeprefix(render(asked, False))
    after_system = _cut(behind, FIRST)[0]
    if not before_user.endswith(before_second) or not after_system.endswith(before_second):
        return None
    return Around(
        opening=before_user[: len(before_user) - len(before_second)],
        system=(before_system, after_system[: len(after_system) - len(before_second)]),
        user=(before_second, after_user),
        assistant=(between.removeprefix(after_user), after_answer),
        closing=closing,
    )


def _cut(text: str, content: str) -> tuple[str, str]:
    before, found, behind = text.partition(content)
    if not found:
        raise ValueError(f"the template leaves out {content}")
    return before, behind


CONVERSATIONS: tuple[list[Message], ...] = (
    [{"role": "user", "content": "Hello"}],
    [{"role": "user", "content": "  spaces and a line end around it \n"}],
    [{"role": "system", "content": "Be brief.\nBe kind."}, {"role": "user", "content": "Who {{ are }} you?"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": " two\n\n"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
        {"role": "user", "content": "five"},
    ],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\ntwo"},
        {"role": "user", "content": "three"},
    ],
)
"""what a template that was read off must render as the original does"""


def go_template(found: Around) -> str:
    """The same template in Go's language, on one line: every fixed text is a quoted string."""
    opening = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{_quoted(found.opening)}{{{{ end }}}}'
    parts = []
    for role, word in (("system", "if"), ("user", "else if"), ("assistant", "else if")):
        before, behind = getattr(found, role)
        parts.append(f'{{{{ {word} eq .Role "{role}" }}}}{_quoted(before)}{{{{ .Content }}}}{_quoted(behind)}')
    messages = f"{{{{ range .Messages }}}}{''.join(parts)}{{{{ end }}}}{{{{ end }}}}"
    return f"{opening if found.opening else ''}{messages}{_quoted(found.closing)}"


def _quoted(text: str) -> str:
    """A text as a string of Go. ollama drops what cannot be printed from a Modelfile: that is written as an escape."""
    if not text:
        return ""
    named = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    said = "".join(named.get(c) or (c if c.isprintable() else f"\\U{ord(c):08X}") for c in text)
    return f'{{{{ "{said}" }}}}'


def value_of(text: str) -> str | None:
    """A text as the value of a PARAMETER, which may go over several lines; None where ollama has no way to write it.

    There are no escapes in it: a text stands between quotes, or between three of them, as it is.
    """
    if "\ufffd" in text:  # part of a character, which no text is compared with
        return None
    return next((said for quotes in ('"', '"""') if read_value(said := quotes + text + quotes) == text), None)


def read_value(said: str) -> str | None:
    """What ollama takes from a value and the line end behind it; None where the value would end early, or never."""
    kept = ""
    for character in [*said, "\n"]:
        value = _without_quotes(kept.strip())
        if character in "\r\n" and value is not None:
            return value if len(kept) == len(said) else None
        kept += character if character.isprintable() or character in "\t\r\n" else ""
    return None


def _without_quotes(said: str) -> str | None:
    for quotes in ('"""', '"'):
        if said.startswith(quotes):
            is_closed = len(said) >= 2 * len(quotes) and said.endswith(quotes)
            return said[len(quotes) : -len(quotes)] if is_closed else None
    return said


def unwritten(stop: str) -> str:
    """The line of a Modelfile for a stop that has none, of printable ASCII."""
    return f"# This stop cannot be written in a Modelfile: {stop!a}"


def modelfile(gguf: str, template: Around | None, stops: Sequence[str], context: int) -> str:
    """The whole file.

    Args:
        gguf: name of the GGUF file, which lies in the same folder.
        template: see `around`; None leaves it out, and says so.
        stops: texts that end an answer; one that cannot be written stands in a comment.
        context: the longest conversation, in tokens.
    """
    lines = [f"FROM ./{gguf}", f"PARAMETER num_ctx {context}"]
    lines += [f"PARAMETER stop {said}" if (said := value_of(stop)) else unwritten(stop) for stop in stops]
    if template is None:
        lines += [
            "# There is no chat template, or it does more than put text around messages: none is written here.",
            "# ollama guesses one from a jinja template in the file; llama-server --jinja runs that itself.",
        ]
    else:
        lines += [f'TEMPLATE """{go_template(template)}"""']
    return "\n".join(lines) + "\n"
