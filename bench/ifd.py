"""Score answers by IFD with heed and by a plain loop of forwards: processor seconds of both, where prompts repeat.

    python bench/ifd.py --out bench/results.jsonl

Two cases of 48 records. `passages`: the first of T0's, as they stand, which ask several questions on one passage, in
several wordings. `answers`: the Alpaca prompts with the most tokens up to 400, each with its own answer and those of
seven others, as answers by several writers to one prompt are. Nothing is shared by answers without their prompts, so
with k answers of a tokens to a prompt of p tokens no way needs fewer tokens than p + 2 k a, of the loop's k p + 2 k a.

A GPT-2 of six layers, weights from a fixed seed, in float32; both sides in one process: heed as `heed data select`
computes losses, from tokens to numbers; the loop as published code does, `model(input_ids, labels).loss` of
transformers for each record after its prompt and alone. Loading and tokenising are on neither side. A loss that differs
by more than 1e-5 nats ends the measurement. One JSON line comes out.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from measure import Clock, machine, peak_memory_bytes, process_environment, say, versions

MEASURED = "HEED_BENCH_IFD"
"""set in the process that measures, whose threads were decided before it began"""
TOLERANCE = 1e-5
"""nats per token"""
LONGEST_PROMPT = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file that the JSON line is added to")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--prompts", type=int, default=6, help="of the case `answers`")
    parser.add_argument("--answers", type=int, default=8, help="to each prompt")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=1, help="times the two are run in turn")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if MEASURED not in os.environ:
        environment = process_environment(arguments.threads) | {MEASURED: "1"}
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
    with tempfile.TemporaryDirectory() as folder:
        line = json.dumps(measured(arguments, Path(folder)))
    print(line)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides in turns."""
    import torch
    from transformers import AutoModelForCausalLM

    from heed.cli.main import keep_freed_memory
    from heed.config import DataSource
    from heed.recipes.workshop.answered import Answered, open_words, records_of
    from heed.recipes.workshop.losses import open_asked

    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    model = write_model(folder / "model", arguments)
    words = open_words(model, "alpaca", False)
    asked = open_asked(model, words, device="cpu", dtype="float32", max_tokens=None, trust_remote_code=False)
    theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    cases = {}
    for case, lines in (("passages", passages(arguments)), ("answers", answers(arguments, words))):
        path = folder / f"{case}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        found = records_of([DataSource(path=str(path))], words, 1, Counter())
        records = [each for each in found if isinstance(each, Answered)]
        asked.nll(records[:2])  # the self-check is made once for a model
        cases[case] = compared(asked, theirs, words, records, arguments.repeats)
        say(f"{case}: {cases[case]['cpu_ratio']:.2f}")
    return {
        "bench": "ifd",
        "cpu_ratio": cases["passages"]["cpu_ratio"],
        "cpu_ratio_answers": cases["answers"]["cpu_ratio"],
        "cases": cases,
        "answers_to_a_prompt": arguments.answers,
        "peak_memory_bytes": peak_memory_bytes(),
        "layers": arguments.layers,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "versions": versions(["torch", "transformers", "heed-lm"]),
        "machine": machine(),
    }


def compared(asked: Any, theirs: Any, words: Any, records: list[Any], repeats: int) -> dict[str, Any]:
    """Both sides in turns on the same records."""
    seconds: dict[str, list[float]] = {"heed": [], "loop": []}
    difference = 0.0
    for _ in range(repeats):
        clock = Clock()
        clock.start()
        found = asked.nll(records)
        clock.stop()
        seconds["heed"].append(clock.cpu_seconds)
        clock.start()
        whole = [each.sequences[0] for each in records]
        expected = [(loss(theirs, each), loss(theirs, alone(each, words))) for each in whole]
        clock.stop()
        seconds["loop"].append(clock.cpu_seconds)
        pairs = zip(found, expected, strict=True)
        difference = max(difference, *(max(abs(a.after_prompt - x), abs(a.alone - y)) for a, (x, y) in pairs))
        if difference > TOLERANCE:
            raise SystemExit(f"the two sides differ by {difference} nats per token")
    lengths = [len(each.sequences[0]) for each in records]
    return {
        "cpu_ratio": statistics.median(seconds["loop"]) / statistics.median(seconds["heed"]),
        "cpu_seconds": seconds,
        "largest_difference": difference,
        "records": len(records),
        "tokens": {"min": min(lengths), "mean": statistics.mean(lengths), "max": max(lengths)},
        "mean_answer_tokens": statistics.mean(each.num_tokens for each in records),
    }


def write_model(folder: Path, arguments: argparse.Namespace) -> str:
    """A GPT-2 of random weights with its tokenizer."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=arguments.layers)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(arguments.shared / "tokenizers/gpt2").save_pretrained(folder)
    return str(folder)


def passages(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """The first records of T0's, without the end of text that is written out in them."""
    count = arguments.prompts * arguments.answers
    with gzip.open(arguments.shared / "instruct/t0-train-50k.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in islice(file, count)]
    return [
        {"prompt": each["prompt"], "completion": each["completion"].replace("<|endoftext|>", "")} for each in records
    ]


def answers(arguments: argparse.Namespace, words: Any) -> list[dict[str, str]]:
    """Long prompts of Alpaca's, each with its own answer and those of the next records that have a short prompt."""
    whole = json.loads((arguments.shared / "instruct/alpaca-5000.json").read_text(encoding="utf-8"))
    length = {i: len(words.tokenizer.encode(each["instruction"] + each["input"])) for i, each in enumerate(whole)}
    fitting = [i for i in length if length[i] <= LONGEST_PROMPT and whole[i]["output"].strip()]
    longest = sorted(fitting, key=lambda i: -length[i])[: arguments.prompts]
    others = iter([whole[i]["output"] for i in fitting if i not in set(longest)])
    return [
        {**whole[index], "output": answer}
        for index in longest
        for answer in [whole[index]["output"], *islice(others, arguments.answers - 1)]
    ]


def alone(sequence: Any, words: Any) -> Any:
    """The answer behind the first token."""
    import numpy as np

    from heed.types import Tokens

    at = np.flatnonzero(sequence.weight)
    ids = np.concatenate([[words.first_token], sequence.ids[at]])
    weight = np.ones(len(ids), dtype=np.float32)
    weight[0] = 0
    return Tokens(ids, weight)


def loss(model: Any, sequence: Any) -> float:
    """The mean NLL of the tokens asked for, as transformers computes it, in a forward of its own."""
    import torch

    ids = torch.from_numpy(sequence.ids.astype("int64"))
    labels = torch.where(torch.from_numpy(sequence.weight > 0), ids, -100)
    with torch.no_grad():
        return float(model(input_ids=ids[None], labels=labels[None]).loss)


if __name__ == "__main__":
    main()
