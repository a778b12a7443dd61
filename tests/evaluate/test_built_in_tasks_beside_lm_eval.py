"""What our tasks ask is, to the byte, what lm-evaluation-harness's tasks of the same name ask of the same records."""

import json
from functools import cache
from pathlib import Path

import pytest

from heed.evaluate.items import Generation, Likelihood
from heed.evaluate.kinds import Reading, item_of
from heed.evaluate.task import built_in
from heed.types import Origin

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

COPA = {"premise": "It rained. ", "choice1": "I got Wet.", "choice2": "She slept.", "question": "effect", "label": 0}
CAUSE = {"premise": "It rained.", "choice1": "I Sang.", "choice2": "The cloud came.", "question": "cause", "label": 1}
XCOPA = {"premise": "Mối đầy nhà.", "choice1": "Đến.", "choice2": "Ở lại.", "question": "effect", "label": 1}
TRUTH = {"choices": ["Nothing.", "You die.", "It grows."], "labels": [1, 0, 0]}
WIKIHOW = {
    "activity_label": "Baking",
    "ctx_a": "[header] How to bake [title] Heat the oven.  ",
    "ctx_b": "then Anna [step] waits",
    "endings": [" waits [substeps] for it.", "[x]sleeps.", "eats", "runs [title] fast"],
    "label": "1",
}
ARC = {"question": "Hot? ", "choices": {"text": ["ice ", "fire"], "label": ["1", "2"]}, "answerKey": "2"}
SENTENCE = {
    "sentid": "technician.customer.1.female.txt",
    "sentence": "The technician told the customer that she could pay.",
}
CASES = [
    # ours, theirs, records in the shape of the hub
    ("arc", "arc_challenge", [ARC, {**ARC, "question": "Cold?", "answerKey": "1"}]),
    ("arc_easy", "arc_easy", [ARC]),
    ("hellaswag", "hellaswag", [WIKIHOW, {**WIKIHOW, "ctx_b": "", "label": "3"}]),
    ("piqa", "piqa", [{"goal": "dresser ", "sol1": "with pins", "sol2": " with paint", "label": 1}]),
    (
        "winogrande",
        "winogrande",
        [{"sentence": "Ann beat Eve so _ won.", "option1": "Ann", "option2": "Eve", "answer": "2"}],
    ),
    ("boolq", "boolq", [{"passage": "Ice -- Ice is cold.", "question": "is ice cold", "label": 1, "idx": 0}]),
    ("copa", "copa", [COPA, CAUSE]),
    ("xcopa_vi", "xcopa_vi", [XCOPA, {**XCOPA, "question": "cause", "label": 0}]),
    (
        "mmlu",
        "mmlu_anatomy",
        [{"question": " 1 + 1 = ", "subject": "anatomy", "choices": ["1", "2", "3", "4"], "answer": 1}],
    ),
    ("truthfulqa_mc1", "truthfulqa_mc1", [{"question": "What of seeds?", "mc1_targets": TRUTH, "mc2_targets": TRUTH}]),
    ("truthfulqa_mc2", "truthfulqa_mc2", [{"question": "What of seeds?", "mc1_targets": TRUTH, "mc2_targets": TRUTH}]),
    ("gsm8k", "gsm8k", [{"question": "1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}]),
    (
        "ifeval",
        "ifeval",
        [{"key": 1, "prompt": "Write.\n", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}],
    ),
    ("triviaqa", "triviaqa", [{"question": "Who?", "answer": {"value": "X", "aliases": ["x", "Y"]}}]),
    ("nq_open", "nq_open", [{"question": "who", "answer": ["X", "Y"]}]),
    (
        "xquad_vi",
        "xquad_vi",
        [{"context": "Nó đỏ.", "question": "Màu?", "answers": {"text": ["đ"], "answer_start": [3]}}],
    ),
    (
        "crows_pairs",
        "crows_pairs_english",
        [{"sent_more": "He is late.", "sent_less": "She is late.", "stereo_antistereo": "stereo", "bias_type": "age"}],
    ),
    (
        "winogender",
        "winogender_all",
        [
            {
                **SENTENCE,
                "pronoun": "she",
                "occupation": "technician",
                "participant": "customer",
                "gender": "female",
                "label": 1,
            }
        ],
    ),
    ("lambada", "lambada_openai", [{"text": "I don't care about signs"}, {"text": 'she said,\n\n"No  way"'}]),
]


@cache
def manager():
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from lm_eval.tasks import TaskManager

    return TaskManager()


def theirs(name, records, folder: Path):
    """Their task on these records, read from a file in place of the hub."""
    entries = manager()
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    file = folder / "data.json"
    file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    files = dict.fromkeys(["train", "validation", "test", "dev"], str(file))
    can_be_imported = name != "xquad_vi"  # its scoring imports a module that transformers 5 no longer has
    config = load_yaml(entries._entry(name).yaml_path, resolve_func=can_be_imported)
    if not can_be_imported:
        del config["process_results"]
    config |= {"dataset_path": "json", "dataset_name": None, "num_fewshot": 0}
    config["dataset_kwargs"] = {"data_files": files, "cache_dir": str(folder)}
    return ConfigurableTask(config={key: value for key, value in config.items() if key not in ("tag", "group")})


def ours(name, record):
    task = built_in(name)
    item = item_of(Reading(task, "0", Origin("data", 1), record))
    found = []
    for each in item.requests:
        if isinstance(each, Likelihood):
            delimiter = task.delimiter if each.context else ""
            found.append((each.context, delimiter + each.continuation))
        else:
            assert isinstance(each, Generation)
            found.append((each.context,))
    return task, item, found


@pytest.mark.parametrize(("name", "their_name", "records"), CASES, ids=[theirs for _, theirs, _ in CASES])
def test_the_requests_are_the_same(tmp_path, name, their_name, records):
    reference = theirs(their_name, records, tmp_path)
    reference.build_all_requests()
    told: dict[int, list[tuple]] = {}
    for each in reference.instances:
        told.setdefault(each.doc_id, []).append(each.args)
    for number, record in enumerate(records):
        task, item, found = ours(name, record)
        expected = [args if item.requests[0].__class__ is Likelihood else args[:1] for args in told[number]]
        description = "" if name == "mmlu" else task.description
        assert [(description + context, *rest) for context, *rest in found] == [
            (without_subject(context), *rest) for context, *rest in expected
        ]
        if task.kind == "generation":
            settings = told[number][0][1]
            assert settings["until"] == list(task.generation.stop)
            assert settings.get("max_gen_toks", 256) == task.generation.max_new_tokens
        if task.kind == "choice":
            target = reference.doc_to_target(reference.eval_docs[number])
            if isinstance(target, int):
                assert item.right[0] == target


def without_subject(context: str) -> str:
    """Their context of MMLU without its description, which ours says once for all subjects."""
    _, found, after = context.partition("about anatomy.\n\n")
    return after if found else context


def test_their_examples_are_set_off_as_ours(tmp_path):
    for name in ("arc", "gsm8k", "nq_open"):
        [(their_name, records)] = [(theirs, records) for ours, theirs, records in CASES if ours == name]
        task, reference = built_in(name), theirs(their_name, records, tmp_path)
        assert task.separator == reference.config.fewshot_delimiter
        assert task.delimiter == reference.config.target_delimiter
