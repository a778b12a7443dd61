"""What a record shows to be wrong: its answers beside its prompt, and beside one another."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise

from heed.data_faults import Fault
from heed.types import Conversation, Document, Judged, Message, Ranking
from heed.workshop.language import language_of
from heed.workshop.text_faults import errors_in, excerpt, faults_in

Noun = Conversation | Ranking | Judged | Document
Messages = Sequence[Message]

URL = re.compile(r"(?:https?://|www\.)[^\s<>\"')\]]+")
ASKS_FOR_A_LANGUAGE = re.compile(
    r"translat|dịch |dich |phiên dịch|翻译|翻譯|tradu|übersetz|"
    r"\b(?:in|into|to|from|bằng|sang|tiếng)\s+(?:tiếng\s+)?(?:english|vietnamese|french|german|spanish|chinese|japanese|"
    r"korean|italian|portuguese|russian|latin|anh|việt|pháp|đức|trung|nhật|hàn|nga)\b|"
    r"\b(?:english|vietnamese|french|german|spanish|chinese|japanese|korean|language|ngôn ngữ)\b",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"^(?:(?:i'?m|i am|we'?re) (?:very |so |really )?(?:sorry|afraid)|sorry|(?:my )?apolog\w+|unfortunately|"
    r"(?:tôi |mình )?(?:rất )?(?:xin lỗi|rất tiếc)|i)\b.{0,80}?\b"
    r"(?:can(?:'t| ?not)|won'?t|(?:am|is|are|'m) (?:not able|unable)|unable to|"
    r"do not feel comfortable|don'?t feel comfortable|không thể|không được phép|từ chối)\b",
    re.IGNORECASE | re.DOTALL,
)
BOILERPLATE = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language)\b.{0,20}?\b(?:model|assistant|i)\b|"
    r"\b(?:my|as of my) (?:last )?(?:knowledge (?:cut-?off|update)|training (?:data|cut-?off))|"
    r"\bi(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b|"
    r"\b(?:là|với tư cách là) (?:một )?(?:mô hình ngôn ngữ|trí tuệ nhân tạo|trợ lý ai)\b",
    re.IGNORECASE,
)
LIST_ITEM = re.compile(r"\s*(?:[-*•+–—>|#]|\(?\d+[.):]|\(?[a-zA-Z][.)]\s|\w[^.!?\n]{0,40}:)")
ENDS_OPEN = re.compile(
    r"[,;(\[{–—]$|\b(?:and|or|the|a|an|of|to|with|for|in|và|hoặc|của|là|cho|với|các|những|một)$", re.IGNORECASE
)
ASCII_WORD = re.compile(r"[a-z0-9]+")
SYSTEM = ("system", "developer")
MIN_CUT_CHARACTERS, MIN_CUT_WORDS = 200, 8
"""of an answer and of its last line, below which an end without a mark says nothing"""
NEARLY = 0.95
"""share of characters that two answers have in common, in order, from which on they are nearly the same"""
MOST_COMPARED = 2_000
"""characters of two answers that are compared"""
MIN_COPIED = 20
"""characters of a prompt, below which an answer may well begin with it"""
LOOP = re.compile(r"(.{6,120}?)\1{4,}\s*\S{0,120}$", re.DOTALL)
LOOP_SIGN = 6
"""characters at the end of a loop, which it has in each of its turns"""
LOOP_WITHIN = 1_200
"""last characters of an answer in which a loop is looked for"""


def faults_of(noun: Noun) -> Iterator[Fault]:
    """Everything that one record shows to be wrong, each kind once for every text in it."""
    for where, text in texts_of(noun):
        for kind, found in _faults_in(text):
            yield Fault(kind, noun.origin, where, found)
    if isinstance(noun, Document):
        return
    for where, kind, found in _of_messages(noun):
        yield Fault(kind, noun.origin, where, found)


def certain_faults(noun: Noun) -> Iterator[Fault]:
    """The errors among them that are cheap to find and that a reader of records does not refuse itself.

    Text that is broken, pairs of one answer, and pairs whose answers are to different prompts.
    """
    for where, text in texts_of(noun):
        for kind, found in errors_in(text):
            yield Fault(kind, noun.origin, where, found)
    if isinstance(noun, Ranking):
        said = [_said(answer) for answer in noun.answers]
        if len(set(said)) < len(said):
            yield Fault("identical-answers", noun.origin, "", repr(said[0][:80]))
        if any(_turn_inside(answer) is not None for answer in noun.answers):
            yield Fault("different-prompts", noun.origin, "", repr(said[0][:80]))


_faults_in = lru_cache(maxsize=1_024)(lambda text: tuple(faults_in(text)))
"""answers to one prompt, and records with one system prompt, repeat texts"""


def texts_of(noun: Noun) -> Iterator[tuple[str, str]]:
    """(where it stands, the text) of everything that a record says."""
    if isinstance(noun, Document):
        yield "text", noun.text
        return
    for number, message in enumerate(prompt_of(noun), 1):
        yield f"message {number} ({message.role})", message.content
    answers = answers_of(noun)
    for place, answer in enumerate(answers, 1):
        for message in answer:
            yield f"answer {place}" if len(answers) > 1 else "answer", message.content


def prompt_of(noun: Conversation | Ranking | Judged) -> Messages:
    """What comes before the answer that is judged, or the last answer."""
    if not isinstance(noun, Conversation):
        return noun.prompt
    messages = noun.messages
    return messages[:-1] if messages and messages[-1].role == "assistant" else messages


def answers_of(noun: Conversation | Ranking | Judged) -> Sequence[Messages]:
    """The answers, the best one first."""
    if isinstance(noun, Ranking):
        return noun.answers
    if isinstance(noun, Judged):
        return (noun.answer,)
    return (noun.messages[-1:],) if noun.messages and noun.messages[-1].role == "assistant" else ()


def _of_messages(noun: Conversation | Ranking | Judged) -> Iterator[tuple[str, str, str]]:
    """(where, kind, what shows it)."""
    prompt, answers = prompt_of(noun), answers_of(noun)
    if (found := wrong_order(prompt, answers)) is not None:
        yield "", "role-order", found
    asked = next((message.content for message in reversed(prompt) if message.role == "user"), "")
    if prompt and not asked.strip():
        yield "prompt", "empty-prompt", repr(asked)
    for place, answer in enumerate(answers, 1):
        where = f"answer {place}" if len(answers) > 1 else "answer"
        text = "\n".join(message.content for message in answer if message.role == "assistant")
        if not text.strip():
            if not any(message.extra.get("tool_calls") for message in answer):
                yield where, "empty-answer", repr(text)
            continue
        for kind, shown in faults_of_answer(text, asked, prompt):
            yield where, kind, shown
    if isinstance(noun, Ranking):
        yield from _of_pairs(answers)


def wrong_order(prompt: Messages, answers: Sequence[Messages]) -> str | None:
    """The roles where no conversation has them in this order: a turn twice, no answer, a system prompt inside."""
    roles = [message.role for message in prompt] + (["assistant"] if answers else [])
    spoken = [role for role in roles if role not in SYSTEM]
    begins = next((place for place, role in enumerate(roles) if role not in SYSTEM), 0)
    inside = any(role in SYSTEM for role in roles[begins:])
    twice = any(a == b and a in ("user", "assistant") for a, b in pairwise(spoken))
    if not answers or inside or twice or not spoken or (spoken[0] == "tool"):
        return ", ".join(roles) or "no messages"
    return None


def faults_of_answer(text: str, asked: str, prompt: Messages) -> Iterator[tuple[str, str]]:
    """(kind, what shows it) of one answer beside what was asked."""
    if (
        len(asked.strip()) >= MIN_COPIED
        and plain(text).startswith(copied := plain(asked))
        and len(plain(text)) >= len(copied)
    ):
        yield "prompt-in-answer", text.strip()[:80]
    if is_cut_off(text):
        yield "cut-off", f"…{text.rstrip()[-60:]}".replace("\n", " ")
    if (loop := loop_in(text)) is not None:
        yield "repetition", f"{loop[:60]!r} again and again"
    if (refusal := REFUSAL.match(text.strip()[:200])) is not None:
        yield "refusal", refusal[0].replace("\n", " ")
    if (boilerplate := BOILERPLATE.search(text)) is not None:
        yield "boilerplate", excerpt(text, boilerplate)
    if (url := URL.search(text)) is not None and not any(URL.search(message.content) for message in prompt):
        yield "answer-only-url", url[0][:120]
    if asked and not any(ASKS_FOR_A_LANGUAGE.search(m.content) for m in prompt if m.role != "assistant"):
        spoken, answered = language_of(asked), language_of(text)
        if spoken and answered and spoken != answered:
            yield "other-language", f"{answered} in answer to {spoken}: {text.strip()[:60]!r}"


def loop_in(text: str) -> str | None:
    """What an answer says over and over at its end; None where it says nothing so."""
    end = text[-LOOP_WITHIN:].rstrip()
    if end.count(end[-LOOP_SIGN:]) < 4:  # the pattern is slow where nothing repeats
        return None
    loop = LOOP.search(end)
    return loop[1].strip() if loop is not None and any(map(str.isalnum, loop[1])) else None


def is_cut_off(text: str) -> bool:
    """Whether an answer stops in the middle: of code that is not closed, or of a sentence in running text.

    Lists and headings end without a mark and are no sentences; most long answers without an end mark are such.
    """
    if text.count("```") % 2:
        return True
    whole = text.strip()
    last = whole.rsplit("\n", 1)[-1]
    if len(whole) < MIN_CUT_CHARACTERS or last.startswith("```") or URL.search(last) or last.split()[-1][0] in "#@":
        return False
    if LIST_ITEM.match(last):
        return len(last.split()) >= MIN_CUT_WORDS and ENDS_OPEN.search(last) is not None
    if len(last.split()) < MIN_CUT_WORDS:
        return bool(ENDS_OPEN.search(last)) and "\n" not in whole[-200:]
    end = last[-1]
    return bool(ENDS_OPEN.search(last)) or (end.isalnum() and end.isascii() and any(m in whole for m in ".!?"))


def _of_pairs(answers: Sequence[Messages]) -> Iterator[tuple[str, str, str]]:
    said = [_said(answer) for answer in answers]
    for number, answer in enumerate(answers, 1):
        if (turn := _turn_inside(answer)) is not None:
            yield f"answer {number}", "different-prompts", f"it goes on after {turn.content.strip()[:80]!r}"
            break
    for worse in range(1, len(answers)):
        for better in range(worse):
            where = f"answers {better + 1} and {worse + 1}"
            a, b = said[better], said[worse]
            if a == b:
                yield where, "identical-answers", repr(a[:80])
            elif plain(a) == plain(b) != "":
                yield where, "identical-but-for-form", first_words(a, b)
            elif is_nearly(a, b):
                yield where, "near-identical-answers", first_words(a, b)


def _turn_inside(answer: Messages) -> Message | None:
    """A whole turn before the last one: then this answer is not to the prompt that the answers have in common."""
    for message, following in pairwise(answer):
        if "user" in (message.role, following.role) or (message.role == following.role == "assistant"):
            return message
    return None


def _said(answer: Messages) -> str:
    """What an answer says, accents composed, without the blanks around it; tool calls count."""
    parts = [
        message.content.strip() if not message.extra else f"{message.content.strip()} {message.extra}"
        for message in answer
    ]
    return unicodedata.normalize("NFC", "\n".join(parts))


def first_words(a: str, b: str) -> str:
    """The beginnings of two texts where they part."""
    place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(place - 20, 0)
    return f"{a[start : place + 30]!r} and {b[start : place + 30]!r}"


@lru_cache(maxsize=256)
def plain(text: str) -> str:
    """Letters, digits and the marks of letters alone, composed and in lower case, one blank between words."""
    folded = unicodedata.normalize("NFC", text).casefold()
    if folded.isascii():
        return " ".join(ASCII_WORD.findall(folded))
    said = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in folded)
    return " ".join("".join(said).split())


def is_nearly(a: str, b: str) -> bool:
    """Whether two texts have nearly all characters in common, in their order."""
    a, b = a[:MOST_COMPARED], b[:MOST_COMPARED]
    if min(len(a), len(b)) < NEARLY * max(len(a), len(b)) or min(len(a), len(b)) < MIN_COPIED:
        return False
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return matcher.real_quick_ratio() >= NEARLY and matcher.quick_ratio() >= NEARLY and matcher.ratio() >= NEARLY
