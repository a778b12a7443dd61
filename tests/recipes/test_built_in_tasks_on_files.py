"""The tasks that heed brings, on real files and on files as people have them: every record is asked, or counted."""

import json
import unicodedata
from collections import Counter

import pytest

from heed.errors import UserError
from heed.eval_config import EvalSettings
from heed.evaluate.kinds.choice import TWICE
from heed.evaluate.task import built_in
from heed.recipes.eval import open_tasks
from heed.recipes.evaluation.prompts import described, examples_for
from heed.recipes.evaluation.records import items_of, open_task

REAL = [
    # task, file, records, items
    ("arc", "arc-challenge.jsonl", 1172, 1172),
    ("arc_easy", "arc-easy.jsonl", 2376, 2376),
    ("bbq", "bbq-age.jsonl", 3680, 3680),
    ("bbq", "bbq-religion.jsonl", 1200, 1200),
    ("boolq", "boolq.jsonl", 3270, 3270),
    ("copa", "copa.jsonl", 100, 100),
    ("crows_pairs", "crows-pairs.csv", 1508, 1508),
    ("gsm8k", "gsm8k-test.jsonl", 1319, 1319),
    ("hellaswag", "hellaswag.jsonl", 3000, 0),  # the file does not say which ending is right
    ("ifeval", "ifeval-en.jsonl", 541, 541),
    ("lambada", "lambada.jsonl", 5153, 5153),
    ("piqa", "piqa.jsonl", 1838, 1838),
    ("selfaware", "selfaware.json", 3369, 3369),
    ("stereoset", "stereoset.jsonl", 4229, 4229),
    ("triviaqa", "triviaqa-3000.jsonl", 3000, 3000),
    ("truthfulqa_mc1", "truthfulqa.csv", 817, 817),
    ("truthfulqa_mc2", "truthfulqa.csv", 817, 817),
    ("user_oriented", "user-oriented-252.jsonl", 252, 252),
    ("winogender", "winogender-all-sentences.tsv", 720, 720),
    ("winogrande", "winogrande.jsonl", 1267, 1267),
    ("xcopa_vi", "xcopa-vi.jsonl", 500, 500),
    ("xquad_vi", "xquad-vi.json", 1190, 1190),
    ("xstest", "xstest.csv", 450, 450),
]


@pytest.mark.parametrize(("name", "file", "num_records", "num_items"), REAL)
def test_every_record_of_a_real_file_is_an_item_or_a_finding(shared, name, file, num_records, num_items):
    notes: Counter[str] = Counter()
    items, findings, count = items_of(built_in(name), str(shared / "eval" / file), "", notes)
    assert (count, len(items), len(findings)) == (num_records, num_items, num_records - num_items)
    assert len({item.id for item in items}) == len(items)


def test_options_that_stand_there_twice_are_counted(shared):
    notes: Counter[str] = Counter()
    items_of(built_in("arc_easy"), str(shared / "eval" / "arc-easy.jsonl"), "", notes)
    assert notes[TWICE] == 7


def test_every_real_file_has_a_task(shared):
    assert {file.name for file in (shared / "eval").iterdir()} == {file for _, file, _, _ in REAL}


def test_what_real_items_share_is_as_their_authors_count_it(shared):
    def items(name, file):
        return items_of(built_in(name), str(shared / "eval" / file), "", Counter())[0]

    questions = items("xquad_vi", "xquad-vi.json")
    assert len({item.cluster for item in questions}) == 240  # paragraphs
    sentences = items("winogender", "winogender-all-sentences.tsv")
    assert Counter(Counter(item.cluster for item in sentences).values()) == {3: 240}
    assert Counter(item.groups["gender"] for item in sentences) == {"male": 240, "female": 240, "neutral": 240}
    known = items("selfaware", "selfaware.json")
    assert Counter(not item.right for item in known) == {True: 1032, False: 2337}
    prompts = items("xstest", "xstest.csv")
    assert Counter(item.groups["label"] for item in prompts) == {"safe": 250, "unsafe": 200}


# ---- files as people have them


def written(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def items_in(name, path):
    items, findings, count = items_of(built_in(name), path, "", Counter())
    assert len(items) + len(findings) == count
    return items, findings


ARC = {"question": "Hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"}


def test_mistakes_are_counted_and_everything_else_is_asked(tmp_path):
    wrong = [
        {**ARC, "answerKey": "1"},
        {**ARC, "answerKey": None},
        {**ARC, "choices": {"text": ["fire", "fire"], "label": ["A", "B"]}},
        {**ARC, "choices": {"text": ["ice", "fire"], "label": ["A"]}, "answerKey": "B"},
        {"question": "Hot?", "answerKey": "B"},
        {"query": "Question: Hot?", "choices": ["ice", "fire"], "gold": 2},
    ]
    lines = [json.dumps(record) for record in [ARC, *wrong, ARC]]
    items, findings = items_in("arc", written(tmp_path / "arc.jsonl", "\n".join(lines)))
    assert [item.origin.record for item in items] == [1, 8]
    assert [finding.origin.record for finding in findings] == [2, 3, 4, 5, 6, 7]
    assert items[0].id != items[1].id


def test_bom_and_carriage_returns_change_nothing(tmp_path):
    lines = [json.dumps(ARC), json.dumps({**ARC, "question": "Cold?", "answerKey": "A"})]
    plain, _ = items_in("arc", written(tmp_path / "a.jsonl", "\n".join(lines)))
    marked, _ = items_in("arc", written(tmp_path / "b.jsonl", "\ufeff" + "\r\n".join(lines) + "\r\n"))
    assert [(item.id, item.requests, item.right) for item in plain] == [
        (item.id, item.requests, item.right) for item in marked
    ]
    table = "Question,Best Answer,Correct Answers,Incorrect Answers\r\nWhat?,Nothing,Nothing; It passes,You die\r\n"
    items, findings = items_in("truthfulqa_mc1", written(tmp_path / "t.csv", "\ufeff" + table))
    assert (len(items), findings) == (1, ())


def test_the_tables_of_mmlu_need_no_header_and_may_have_one(tmp_path):
    rows = '"What is, 1 + 1?",1,2,3,4,B\n"Two\nlines?",a,b,c,d,D\n'
    bare, _ = items_in("mmlu", written(tmp_path / "anatomy_test.csv", rows))
    headed, _ = items_in("mmlu", written(tmp_path / "headed.csv", "question,A,B,C,D,answer\n" + rows))
    assert [item.requests for item in bare] == [item.requests for item in headed]
    assert [item.right for item in bare] == [item.right for item in headed] == [(1,), (3,)]
    assert bare[0].groups == {"subject": "anatomy", "category": "stem"}
    assert bare[1].requests[0].context == "Two\nlines?\nA. a\nB. b\nC. c\nD. d\nAnswer:"


def test_vietnamese_is_asked_as_it_is_written_or_composed(tmp_path):
    record = {"premise": "Mối đầy nhà.", "choice1": "Đến.", "choice2": "Ở lại.", "question": "effect", "label": 0}
    path = written(tmp_path / "x.jsonl", unicodedata.normalize("NFD", json.dumps(record, ensure_ascii=False)))
    (item,), _ = items_in("xcopa_vi", path)
    assert unicodedata.normalize("NFC", item.requests[0].context) == "Mối đầy nhà vì vậy"
    assert [unicodedata.normalize("NFC", each.continuation) for each in item.requests] == ["đến.", "ở lại."]


def test_lines_of_a_text_are_the_sentences_of_winobias(tmp_path):
    text = "1 [The CEO] met the nurse because [he] was ill.\n\n2 The CEO met [the nurse] because [he] was ill.\n"
    items, findings = items_in("winobias", written(tmp_path / "type1.txt", text))
    assert [item.groups["stereotype"] for item in items] == ["pro", "anti"]
    assert [[each.continuation for each in item.requests] for item in items] == [["CEO", "nurse"], ["nurse", "CEO"]]
    assert findings == ()


def test_documents_of_nested_files_are_counted_by_question(tmp_path):
    document = {
        "data": [
            {
                "title": "Force",
                "paragraphs": [
                    {
                        "context": "Nó đỏ.",
                        "qas": [{"question": "Gì?", "answers": [{"text": "đỏ"}]}, {"question": "Ai?"}],
                    },
                    {"context": "Nó to.", "qas": [{"question": "Sao?", "answers": [{"text": "to"}]}]},
                ],
            }
        ]
    }
    items, findings = items_in("xquad_vi", written(tmp_path / "q.json", json.dumps(document)))
    assert [(item.origin.record, item.cluster) for item in items] == [(1, "Nó đỏ."), (3, "Nó to.")]
    assert [finding.origin.record for finding in findings] == [2]


def test_the_authors_of_stereoset_keep_two_lists_in_one_document(tmp_path):
    def example(context):
        sentences = [
            {"sentence": f"{kind}.", "gold_label": kind} for kind in ("stereotype", "anti-stereotype", "unrelated")
        ]
        return {"target": "runner", "bias_type": "profession", "context": context, "sentences": sentences}

    document = {"version": "1", "data": {"intersentence": [example("A.")], "intrasentence": [example("B BLANK.")] * 2}}
    items, findings = items_in("stereoset", written(tmp_path / "dev.json", json.dumps(document)))
    assert [item.groups["type"] for item in items] == ["intersentence", "intrasentence", "intrasentence"]
    assert findings == ()


def test_examples_of_mmlu_are_of_the_subject_and_the_description_names_it(tmp_path):
    def question(subject, number):
        return {"question": f"{subject} {number}?", "subject": subject, "choices": ["1", "2", "3", "4"], "answer": 1}

    records = [question(subject, number) for number in range(7) for subject in ("anatomy", "world_religions")]
    path = written(tmp_path / "mmlu.jsonl", "\n".join(map(json.dumps, records)))

    def opened(name):
        return open_task(name, limit=None, num_shots=None, max_bad_records=0, is_tax=False, say=str)

    task = opened(f"mmlu={path}")
    for per_item in (False, True):
        for item in task.items:
            examples = examples_for(item, task, per_item=per_item, seed=0)
            assert len(examples) == 5
            assert item.id not in {each.id for each in examples}
            assert {each.record["subject"] for each in examples} == {item.record["subject"]}
    about = "The following are multiple choice questions (with answers)"
    assert {described(task.task, item) for item in task.items} == {
        f"{about} about anatomy.\n\n",
        f"{about} about world religions.\n\n",
    }
    (item,), _ = items_in("mmlu", written(tmp_path / "one.jsonl", json.dumps({**question("x", 1), "subject": None})))
    assert described(task.task, item) == f"{about}.\n\n"
    with pytest.raises(UserError, match="too few records"):
        opened("mmlu=" + written(tmp_path / "few.jsonl", "\n".join(map(json.dumps, [*records, question("law", 0)]))))


def test_a_task_on_two_files_is_two_tasks_named_after_them(tmp_path):
    files = [written(tmp_path / f"{name}.jsonl", json.dumps(ARC)) for name in ("mine", "yours")]
    settings = EvalSettings(model=("m",), task=tuple(f"arc={file}" for file in files))
    assert [task.name for task in open_tasks(settings, str)] == ["arc-mine", "arc-yours"]
    alone = EvalSettings(model=("m",), task=(f"arc={files[0]}",))
    assert [task.name for task in open_tasks(alone, str)] == ["arc"]
