"""The terminal side of `heed chat`: read what the user types, print what the model answers as it comes."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterator

from heed.config import ChatSettings
from heed.errors import UserError
from heed.recipes.chat import Chat, Ending, open_chat
from heed.recipes.strange import SURE

HELP = "/new starts anew, Ctrl-C stops an answer, Ctrl-D or /quit leaves"
QUIT, NEW = "/quit", "/new"
PROMPT = "> "
NOTES = {
    Ending.INTERRUPTED: "stopped",
    Ending.LIMIT: "cut at {limit:,} tokens: a larger --max-new-tokens allows more",
    Ending.POSITIONS: "cut: the conversation fills the model's positions; /new starts anew",
    Ending.WITHHELD: "an answer is withheld: its confidence is below the certified threshold",
}


def run(settings: ChatSettings) -> None:
    """Talk until the input ends: to a person at a terminal, or line by line, each a user's message, to a pipe.

    Answers go to standard output, everything else to standard error. In a pipe a message that cannot be answered
    ends the program with its error; a person is told and goes on.
    """
    talk = open_chat(settings, note)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        note(f"talking to {settings.model}; {HELP}")
    for line in typed() if at_terminal else piped():
        text = line.rstrip("\r\n")
        if text.strip() == QUIT:
            return
        if text.strip() == NEW:
            talk.start_anew()
            note("(a new conversation)")
        elif text.strip():
            try:
                answer(talk, text)
            except UserError as error:
                if not at_terminal:
                    raise
                note(f"error: {error}")


def answer(talk: Chat, text: str) -> None:
    """Print the answer piece by piece, and why it ended unless the model ended it."""
    ending = talk.answer(text, show)
    print(flush=True)
    if talk.confidence is not None:
        note(f"(confidence {talk.confidence:.2f})")
    if talk.p_strange is not None and talk.p_strange <= SURE:
        note(f"(this prompt is unlike those that the model was tuned on: p = {talk.p_strange:.3f})")
    if ending in NOTES:
        note(f"({NOTES[ending].format(limit=talk.settings.max_new_tokens)})")
    if ending is Ending.INTERRUPTED and not sys.stdin.isatty():
        raise KeyboardInterrupt


def show(piece: str) -> None:
    """Print a piece of an answer at once. To a terminal, characters that would control it are written out."""
    print("".join(map(harmless, piece)) if sys.stdout.isatty() else piece, end="", flush=True)


def harmless(character: str) -> str:
    """A control character other than a line end or tab by its number; any other character as it is."""
    if unicodedata.category(character) == "Cc" and character not in "\n\t":
        return f"<U+{ord(character):04X}>"
    return character


def typed() -> Iterator[str]:
    """Lines typed at the terminal, with a prompt and line editing, until Ctrl-D."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (makes input() editable)
    while True:
        try:
            if sys.stdout.isatty():
                yield input(PROMPT)
            else:
                print(PROMPT, end="", file=sys.stderr, flush=True)
                line = sys.stdin.readline()
                if not line:
                    return
                yield line
        except KeyboardInterrupt:
            note(f"\n({HELP})")
        except EOFError:
            print(file=sys.stderr)
            return


def piped() -> Iterator[str]:
    """Lines of standard input."""
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise UserError(
            "the input is not UTF-8 text",
            where="standard input",
            found=f"0x{error.object[error.start]:02x}",
            expected="text in UTF-8, each line a message",
            fix="iconv -t UTF-8 -f THE_ENCODING_IT_HAS FILE | heed chat --model MODEL",
        ) from error


def note(line: str) -> None:
    """Say something that is not the model's."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
