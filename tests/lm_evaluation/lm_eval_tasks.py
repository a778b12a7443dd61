"""Tasks of lm-eval on local files, one of each way of scoring, made of the field's own questions."""

import csv
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

NUM_TEST, NUM_SHOTS = 6, 5
MEAN = {"aggregation": "mean", "higher_is_better": True}
ACCURACIES = [{"metric": metric, **MEAN} for metric in ("acc", "acc_norm", "acc_bytes")]


def lines_of(path: Path, count: int) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, count)]


def written(path: Path, records: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def on_files(folder: Path, name: str, records: list[dict[str, Any]], shots: int = 0) -> dict[str, Any]:
    """What a task says of its data: the first records are examples, the rest are asked."""
    files = {"test": written(folder / f"{name}.jsonl", records[shots:])}
    task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
    if shots:
        files["dev"] = written(folder / f"{name}-shots.jsonl", records[:shots])
        task |= {"fewshot_split": "dev", "num_fewshot": shots, "fewshot_config": {"sampler": "first_n"}}
    return task


def choice(metrics: list[dict[str, Any]], text: str, choices: Any, target: str) -> dict[str, Any]:
    """A task of several choices."""
    return {
        "output_type": "multiple_choice",
        "doc_to_text": text,
        "doc_to_choice": choices,
        "doc_to_target": target,
        "metric_list": metrics,
    }


def tasks_of(data: Path, folder: Path) -> list[dict[str, Any]]:
    """The tasks, with their records written to `folder`."""
    arc = [record for record in lines_of(data / "arc-easy.jsonl", 200) if len(record["choices"]) == 4]
    hellaswag = [record | {"label": 0} for record in lines_of(data / "hellaswag.jsonl", NUM_TEST)]
    with (data / "truthfulqa.csv").open(encoding="utf-8-sig") as rows:
        truthful = [
            {"question": row["Question"], "options": [row["Best Answer"], *row["Incorrect Answers"].split("; ")]}
            for row in islice(csv.DictReader(rows), NUM_TEST)
        ]
    pages = [{"page": record["query"]} for record in lines_of(data / "boolq.jsonl", 3)]
    pages.append({"page": "  ".join(each["page"] for each in pages)})  # longer than the models
    pages.append({"page": "One."})
    first = [{"metric": "acc", **MEAN}]
    short = sorted(arc, key=lambda record: len(record["query"] + "".join(record["choices"])))
    letters = "{{query}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
    truth = "Q: What is the square root of banana?\nA: I have no comment.\n\nQ: {{question}}\nA:"
    return [
        on_files(folder, "arc", arc[:NUM_TEST])
        | choice([*ACCURACIES, {"metric": "acc_mutual_info", **MEAN}], "{{query}}\nAnswer:", "choices", "gold"),
        on_files(folder, "hellaswag", hellaswag) | choice(ACCURACIES, "question", "answer", "label"),
        # Several contexts and one continuation:
        on_files(folder, "winogrande", lines_of(data / "winogrande.jsonl", NUM_TEST))
        | choice(first, "gold", "context_options", "continuation"),
        on_files(folder, "truthfulqa", truthful) | choice(first, truth, "options", "{{0}}"),
        on_files(folder, "mmlu", short[: NUM_SHOTS + NUM_TEST], NUM_SHOTS)
        | choice(first, letters, list("ABCD"), "gold"),
        # Longer than the models, so that all backends cut it:
        on_files(folder, "long", arc[: NUM_SHOTS + 2], NUM_SHOTS) | choice(first, letters, list("ABCD"), "gold"),
        on_files(folder, "pages", pages)
        | {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{page}}",
            "metric_list": [{"metric": metric} for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
        },
        on_files(folder, "gsm8k", lines_of(data / "gsm8k-test.jsonl", NUM_TEST))
        | {
            "output_type": "generate_until",
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["e.", "\n\n"], "do_sample": False, "max_gen_toks": 24},
            "metric_list": [{"metric": "exact_match", **MEAN}],
        },
    ]
