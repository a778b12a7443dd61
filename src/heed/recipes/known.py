"""What does a base model know? Ask it, sort its questions by what it knows, and write data that teaches it the border.

questions -> answers under several few-shot prompts -> categories -> decisions -> records for `heed sft`

out/answers.jsonl     every answer, kept as it comes, so that a killed command goes on
out/categories.jsonl  a line for each question: what the model knows of it, and what became of it
out/records.jsonl     instruction and output: the right answer, or a refusal
out/results.json      the shares, with their intervals
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from heed import files
from heed.data.prepare import Account, refuse_findings
from heed.dist.world import World
from heed.errors import UserError
from heed.eval_config import KnownSettings
from heed.evaluate.intervals import mean, rate
from heed.evaluate.refusals import refusal
from heed.evaluate.slick import CATEGORIES, Decision, Known, Policy, decide, known
from heed.models.intake.content import weights_sha256
from heed.models.load import choose_device
from heed.recipes.knowing.asking import (
    ANSWERS,
    Base,
    UnderPrompt,
    ask_all,
    open_base,
    read_answers,
    too_long_to_give,
)
from heed.recipes.knowing.questions import Question, questions_of
from heed.train.environment import environment
from heed.train.progress import Progress
from heed.train.run import open_run
from heed.types import Finding

CATEGORIES_FILE, RECORDS, RESULTS, LEFT_OUT = "categories.jsonl", "records.jsonl", "results.json", "left_out.jsonl"
DECIDED_AFTERWARDS = {
    *("out", "limit", "check", "maybe", "weakly", "max_agreement", "min_agreement", "max_refusals"),
    *("max_bad_records", "device", "trust_remote_code", "json"),
}
"""settings on which no kept answer depends: they may differ when a command goes on with a folder"""


def run(settings: KnownSettings, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Ask what was not asked before, write the files, and return what `results.json` holds.

    Raises:
        UserError: the data or the model cannot be used, or the folder holds answers to other questions.
    """
    questions, findings = read_questions(settings, say)
    with open_run(settings.out, asking_settings(settings), environment(choose_device(settings.device), World())) as run:
        for note in run.notes:
            say(note)
        base = open_base(settings, questions, say)
        asked = questions[: settings.limit] if settings.limit else questions
        long = too_long_to_give(base, asked)
        refuse_or_say([*findings, *long], len(questions) + len(findings), settings, say)
        asked = [question for question in asked if question.origin not in {finding.origin for finding in long}]
        base.refuse_long_prompts(asked)
        run.keep_content({"questions": fingerprint(questions), "weights": weights_sha256(settings.model) or ""})
        run.is_new = False  # what is kept from here on stays, whatever happens
        said = ask(base, asked, run.folder)
        return conclude(settings, asked, said, [*findings, *long], run.folder)


def read_questions(settings: KnownSettings, say: Callable[[str], None]) -> tuple[list[Question], list[Finding]]:
    """All questions of the data, and what cannot be one."""
    notes: Counter[str] = Counter()
    read = list(questions_of(settings.data, notes))
    for words, count in notes.items():
        say(f"{count:,} {words}" if count > 1 else words)
    findings = [each for each in read if isinstance(each, Finding)]
    refuse_or_say(findings, len(read), settings, lambda line: None)
    questions = [each for each in read if isinstance(each, Question)]
    if not questions:
        raise UserError(
            "there is nothing to ask",
            where=", ".join(source.path for source in settings.data),
            found=f"{len(read):,} records",
            expected="questions with their answers",
            fix="--data FILE, with records such as " + '{"question": "...", "answer": "...", "aliases": ["..."]}',
        )
    return questions, findings


def refuse_or_say(
    findings: Sequence[Finding], num_records: int, settings: KnownSettings, say: Callable[[str], None]
) -> None:
    """Stop at unusable records, unless they are so few that they may be left out: then say how many they are."""
    account = Account(", ".join(source.path for source in settings.data))
    account.num_records = num_records
    refuse_findings(list(findings), account, settings.max_bad_records)
    if findings:
        say(f"{len(findings):,} records are left out: see {Path(settings.out) / LEFT_OUT}")


def asking_settings(settings: KnownSettings) -> str:
    """The settings that decide what is asked, as YAML."""
    values = settings.model_dump(mode="json", by_alias=True)
    kept = {name: value for name, value in values.items() if name not in DECIDED_AFTERWARDS}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def fingerprint(questions: Sequence[Question]) -> str:
    """Of the questions and their right answers, in any order."""
    return hashlib.sha256("\n".join(sorted(question.id for question in questions)).encode()).hexdigest()


def ask(base: Base, questions: Sequence[Question], folder: Path) -> dict[str, list[UnderPrompt]]:
    """Ask, and say how far it is."""
    kept = read_answers(folder / ANSWERS)
    num_kept = sum(question.id in kept for question in questions)
    each = base.answers_per_question
    with Progress("asking", total=len(questions) * each, start=num_kept * each, unit="answers") as progress:
        return ask_all(base, questions, kept, folder / ANSWERS, progress.update)


def conclude(
    settings: KnownSettings,
    questions: Sequence[Question],
    said: Mapping[str, Sequence[UnderPrompt]],
    findings: Sequence[Finding],
    folder: Path,
) -> dict[str, Any]:
    """From answers to categories, decisions, records and shares, all written."""
    what = [what_is_known(question, said[question.id], settings.check) for question in questions]
    policy = Policy(
        settings.maybe, settings.weakly, settings.max_agreement, settings.min_agreement, settings.max_refusals
    )
    decisions = decide(what, policy)
    triples = list(zip(questions, what, decisions, strict=True))
    write_lines(folder / CATEGORIES_FILE, [category_line(*each) for each in triples])
    write_lines(folder / RECORDS, [line for q, _, decision in triples if (line := record_of(q, decision)) is not None])
    lines = [{"path": f.origin.path, "record": f.origin.record, "reason": f"{f.problem}: {f.found}"} for f in findings]
    write_lines(folder / LEFT_OUT, lines)
    results = results_of(settings, questions, what, decisions, len(findings))
    files.write_json(folder / RESULTS, results)
    return results


def what_is_known(question: Question, said: Sequence[UnderPrompt], rule: str) -> Known:
    """What the model knows of a question."""
    return known(
        [each.greedy for each in said],
        [sample for each in said for sample in each.samples],
        question.accepted,
        rule=rule,
        is_answerable=question.is_answerable,
    )


def record_of(question: Question, decision: Decision) -> dict[str, Any] | None:
    """The record that a question becomes; None where it is left out."""
    if decision.action == "leave-out":
        return None
    output = question.answer if decision.action == "answer" else refusal(question.text)
    return {"instruction": question.text, "output": output}


def category_line(question: Question, what: Known, decision: Decision) -> dict[str, Any]:
    """What is said of a question in `categories.jsonl`; the line is a question again, for whoever measures later."""
    return {
        "id": question.id,
        "path": question.origin.path,
        "record": question.origin.record,
        "question": question.text,
        "answer": question.answer or None,
        "aliases": list(question.accepted),
        "answerable": question.is_answerable,
        "category": what.category,
        "greedy_right": what.greedy_right,
        "sampled_right": what.sampled_right,
        "agreement": what.agreement,
        "commonest": what.commonest,
        "action": decision.action,
        "why": decision.why,
    }


def results_of(
    settings: KnownSettings,
    questions: Sequence[Question],
    what: Sequence[Known],
    decisions: Sequence[Decision],
    num_findings: int,
) -> dict[str, Any]:
    """The shares of the categories with their intervals, and how many records of each kind there are."""
    answerable = [each for each in what if each.category != "unanswerable"]
    figures: list[dict[str, Any]] = []
    for category in CATEGORIES if answerable else ():
        share = rate([each.category == category for each in answerable])
        figures.append(_figure(category, share.rate, share.low, share.high, len(answerable)))
    if len(answerable) > 1:
        right = mean([each.greedy_right for each in answerable])
        figures.append(_figure("greedy right", right.mean, right.low, right.high, right.count))
        sure = mean([each.agreement for each in answerable])
        figures.append(_figure("agreement", sure.mean, sure.low, sure.high, sure.count))
    actions = Counter(decision.action for decision in decisions)
    why = Counter(decision.why for decision in decisions if decision.action == "leave-out")
    return {
        "format": 1,
        "models": [{"name": settings.model, "template": None, "kind": "language"}],
        "tasks": [{"name": "known", "kind": "known", "num_items": len(questions), "num_shots": settings.num_shots}],
        "figures": figures,
        "num_unanswerable": len(what) - len(answerable),
        "num_unusable": num_findings,
        "records": {"answers": actions["answer"], "refusals": actions["refuse"], "left_out": dict(sorted(why.items()))},
    }


def _figure(measure: str, value: float, low: float, high: float, count: int) -> dict[str, Any]:
    numbers = {"value": value, "low": low, "high": high, "count": count}
    return {"model": 0, "task": "known", "measure": measure, **numbers, "unit": "share", "group": None, "why": ""}


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """A JSON line for each, all or none."""
    files.write_text(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
