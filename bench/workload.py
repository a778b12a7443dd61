"""What both sides train on, made once and read by both: the model folder, the records and their orders.

Run by sft.py in a process of its own: `python workload.py SPEC.json`.
"""

import gzip
import itertools
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from measure import read_json, write_json
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.trainer_pt_utils import get_length_grouped_indices

STOP = "<|endoftext|>"
ROWS = (1, 2, 4, 8, 16)
NUM_DRAWS = 200
Orders = dict[str, list[list[int]]]
"""Record indices of every step, by the name of the order."""
PREAMBLE = "Below is an instruction that describes a task"
ALPACA = PREAMBLE + (
    ". Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_WITH_INPUT = PREAMBLE + (
    ", paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


def read_alpaca(path: Path) -> list[dict[str, str]]:
    """Prompt and completion of every record with an answer, in the wording of Stanford Alpaca."""
    return [
        {
            "prompt": (ALPACA_WITH_INPUT if record["input"] else ALPACA).format_map(record),
            "completion": record["output"],
        }
        for record in json.loads(path.read_text(encoding="utf-8"))
        if record["output"].strip()
    ]


def read_t0(path: Path) -> list[dict[str, str]]:
    """Prompt and completion as they are, less the stop token's text: both sides add the token itself."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [
        {"prompt": record["prompt"], "completion": record["completion"].removesuffix(STOP)}
        for record in records
        if record["completion"].removesuffix(STOP).strip()
    ]


def with_ids(records: list[dict[str, str]], tokenizer: Tokenizer, max_length: int) -> tuple[list[dict], dict[str, int]]:
    """The records with their token ids, and counts of those left out.

    Left out are records longer than the model's positions, and those where a token would cross the edge between
    prompt and response: there the two sides would cut the text differently, and not train the same tokens.
    """
    texts = [record["prompt"] for record in records]
    texts += [record["completion"] + STOP for record in records]
    texts += [record["prompt"] + record["completion"] + STOP for record in records]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    prompts, responses, wholes = (ids[i * len(records) : (i + 1) * len(records)] for i in range(3))
    kept, left_out = [], {"too_long": 0, "token_across_the_edge": 0}
    for record, prompt, response, whole in zip(records, prompts, responses, wholes, strict=True):
        if len(whole) > max_length:
            left_out["too_long"] += 1
        elif prompt + response != whole:
            left_out["token_across_the_edge"] += 1
        else:
            kept.append(record | {"prompt_ids": prompt, "response_ids": response})
    return kept, left_out


def length(record: dict[str, Any]) -> int:
    return len(record["prompt_ids"]) + len(record["response_ids"])


def grouped_steps(records: list[dict], batch_size: int, seed: int) -> list[list[int]]:
    """The whole data set cut into steps by the sampler TRL uses to group by length."""
    generator = torch.Generator().manual_seed(seed)
    order = get_length_grouped_indices([length(record) for record in records], batch_size, generator=generator)
    return [order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)]


def shuffled_steps(indices: list[int], batch_size: int, seed: int) -> list[list[int]]:
    order = random.Random(seed).sample(indices, len(indices))
    return [order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)]


def draw_orders(records: list[dict], *, warmup: int, steps: int, batch_size: int, seed: int) -> Orders:
    """Record indices of every step, `shuffled` and `grouped`: the same warm-up, then the same records in two orders.

    Grouping needs the whole data set to be any good, and a measurement has only a few steps. So the measured
    records are whole steps of the grouping of all records, one at random from each of as many strata by length.
    Of many such draws the one is taken that is most like the whole data set, by mean length, share of trained
    tokens and the padding of every setting in either order.
    """
    by_length = sorted(grouped_steps(records, batch_size, seed), key=lambda step: mean_length(records, [step]))
    if len(by_length) < warmup + steps:
        raise SystemExit(f"{len(records):,} records do not make {warmup + steps} steps of {batch_size}")
    everything = likeness(records, whole_orders(records, batch_size, seed))
    draws = [draw(by_length, steps, batch_size, seed + k) for k in range(NUM_DRAWS)]
    measured = min(draws, key=lambda orders: distance(likeness(records, orders), everything))
    taken = {i for step in measured["grouped"] for i in step}
    others = [i for i in range(len(records)) if i not in taken]
    first = shuffled_steps(others, batch_size, seed)[:warmup]
    return {name: first + order for name, order in measured.items()}


def draw(by_length: list[list[int]], steps: int, batch_size: int, seed: int) -> Orders:
    """One step at random from each of `steps` equal strata, as they are and with their records shuffled."""
    chooser = random.Random(seed)
    edges = [round(k * len(by_length) / steps) for k in range(steps + 1)]
    grouped = [chooser.choice(by_length[a:b]) for a, b in itertools.pairwise(edges)]
    chooser.shuffle(grouped)
    return {"shuffled": shuffled_steps([i for step in grouped for i in step], batch_size, seed), "grouped": grouped}


def whole_orders(records: list[dict], batch_size: int, seed: int) -> Orders:
    return {
        "shuffled": shuffled_steps(list(range(len(records))), batch_size, seed),
        "grouped": grouped_steps(records, batch_size, seed),
    }


def likeness(records: list[dict], orders: Orders) -> dict[str, float]:
    """Mean length, share of trained tokens, and the share of padding for every number of rows in either order."""
    shares = {
        f"b{rows}{'-grouped' if name == 'grouped' else ''}": padded_share(records, steps, rows)
        for name, steps in orders.items()
        for rows in ROWS
    }
    steps = orders["shuffled"]
    trained = sum(len(records[i]["response_ids"]) for step in steps for i in step)
    num_tokens = sum(length(records[i]) for step in steps for i in step)
    return shares | {"length": mean_length(records, steps), "trained": trained / num_tokens}


def distance(some: dict[str, float], everything: dict[str, float]) -> float:
    """Sum of the differences in the shares, and of the relative difference in length."""
    length_ratio = some["length"] / everything["length"]
    return abs(length_ratio - 1) + sum(abs(some[name] - everything[name]) for name in some if name != "length")


def mean_length(records: list[dict], steps: list[list[int]]) -> float:
    return sum(length(records[i]) for step in steps for i in step) / sum(map(len, steps))


def padded_share(records: list[dict], steps: list[list[int]], rows: int) -> float:
    """Share of padding among the positions of rectangular batches of `rows`."""
    real = padded = 0
    for step in steps:
        for i in range(0, len(step), rows):
            lengths = [length(records[k]) for k in step[i : i + rows]]
            real += sum(lengths)
            padded += max(lengths) * len(lengths)
    return 1 - real / padded


def make_model(folder: Path, tokenizer_folder: Path, shape: dict[str, int], seed: int) -> int:
    """Save a GPT-2 of the shape with weights drawn from the seed, and the tokenizer beside it; count its parameters."""
    torch.manual_seed(seed)
    config = GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    for file in tokenizer_folder.iterdir():
        shutil.copyfile(file, folder / file.name)
    return sum(parameter.numel() for parameter in model.parameters())


def summary(records: list[dict], orders: Orders, warmup: int) -> dict[str, Any]:
    """What is measured, in records and tokens, and how like the whole data set it is."""
    steps = {name: order[warmup:] for name, order in orders.items()}
    measured = [records[i] for step in steps["shuffled"] for i in step]
    return {
        "records": len(measured),
        "tokens": sum(length(record) for record in measured),
        "trained_tokens": sum(len(record["response_ids"]) for record in measured),
        "likeness": rounded(likeness(records, steps)),
    }


def rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(number, 3) for name, number in numbers.items()}


def main(spec: dict[str, Any]) -> None:
    folder, data = Path(spec["folder"]), Path(spec["data"])
    tokenizer = Tokenizer.from_file(str(Path(spec["tokenizer"]) / "tokenizer.json"))
    records = read_t0(data) if data.suffix == ".gz" else read_alpaca(data)
    if len(records) > spec["pool"]:
        records = random.Random(spec["seed"]).sample(records, spec["pool"])
    records, left_out = with_ids(records, tokenizer, spec["shape"]["n_positions"])
    num_parameters = make_model(folder / "model", Path(spec["tokenizer"]), spec["shape"], spec["seed"])
    facts: dict[str, Any] = {
        "parameters": num_parameters,
        "left_out": left_out,
        "likeness_of_all": rounded(likeness(records, whole_orders(records, spec["batch_size"], spec["seed"]))),
    }
    for phase, steps in spec["phases"].items():
        orders = draw_orders(
            records, warmup=spec["warmup"], steps=steps, batch_size=spec["batch_size"], seed=spec["seed"]
        )
        used = sorted({i for order in orders.values() for step in order for i in step})
        place = {index: k for k, index in enumerate(used)}
        write_json(folder / f"{phase}-records.json", [records[i] for i in used])
        renumbered = {name: [[place[i] for i in step] for step in order] for name, order in orders.items()}
        write_json(folder / f"{phase}-orders.json", renumbered)
        facts[f"{phase}_records"] = summary(records, orders, spec["warmup"])
    write_json(folder / "facts.json", facts)


if __name__ == "__main__":
    main(read_json(sys.argv[1]))
