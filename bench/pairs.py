"""What both sides of `dpo.py` and `reward.py` train on, made once: the model folder, the pairs and their steps.

Run in a process of its own: `python pairs.py SPEC.json`.
"""

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from measure import read_json, write_json
from tokenizers import Tokenizer
from workload import STOP, make_model, rounded

TURN = "\n\nAssistant:"
ROWS = (1, 2, 4, 8)
NUM_DRAWS = 400
Steps = list[list[int]]
"""pair indices of every step"""


def read_pairs(path: Path) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Prompt, chosen and rejected text of every pair, and counts of those left out.

    The prompt is the dialogue up to and with its last `Assistant:`, the answers begin with the space behind it.
    """
    pairs, left_out = [], {"two_prompts": 0, "empty_answer": 0, "same_answer": 0}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    for record in records:
        (prompt, _, chosen), (other, _, rejected) = (record[name].rpartition(TURN) for name in ("chosen", "rejected"))
        if prompt != other:
            left_out["two_prompts"] += 1
        elif not (chosen.strip() and rejected.strip()):
            left_out["empty_answer"] += 1
        elif chosen == rejected:
            left_out["same_answer"] += 1
        else:
            pairs.append({"prompt": prompt + TURN, "chosen": chosen, "rejected": rejected})
    return pairs, left_out


def with_ids(pairs: list[dict[str, str]], tokenizer: Tokenizer, max_length: int) -> tuple[list[dict], dict[str, int]]:
    """The pairs with their token ids, stop token included, and counts of those left out.

    Left out are pairs with an answer that is too long with its prompt, and those where a token would cross the edge
    between prompt and answer or both answers begin alike: there the two sides would not train the same tokens.
    """

    def ids_of(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(texts)]

    prompts = ids_of([pair["prompt"] for pair in pairs])
    answers = {name: ids_of([pair[name] + STOP for pair in pairs]) for name in ("chosen", "rejected")}
    wholes = {name: ids_of([pair["prompt"] + pair[name] + STOP for pair in pairs]) for name in answers}
    kept, left_out = [], {"too_long": 0, "token_across_the_edge": 0}
    for i, pair in enumerate(pairs):
        if max(len(wholes[name][i]) for name in wholes) > max_length:
            left_out["too_long"] += 1
        elif any(prompts[i] + answers[name][i] != wholes[name][i] for name in wholes):
            left_out["token_across_the_edge"] += 1
        else:
            ids = {f"{name}_ids": answers[name][i] for name in answers}
            kept.append(pair | {"prompt_ids": prompts[i]} | ids)
    return kept, left_out


def padded_length(pair: dict[str, Any]) -> int:
    """Tokens of the prompt with the longer answer."""
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


def likeness(pairs: list[dict], steps: Steps) -> dict[str, float]:
    """Of a pair on average: tokens of the prompt, tokens of the answers, and places in a batch of so many pairs."""
    used = [pairs[i] for step in steps for i in step]
    places = {
        f"places_b{rows}": sum(
            2 * max(lengths) * len(lengths)
            for step in steps
            for ordered in [sorted(padded_length(pairs[i]) for i in step)]
            for lengths in (ordered[k : k + rows] for k in range(0, len(ordered), rows))
        )
        / len(used)
        for rows in ROWS
    }
    return {
        "prompt_tokens": sum(len(pair["prompt_ids"]) for pair in used) / len(used),
        "answer_tokens": sum(len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in used) / len(used),
        **places,
    }


def random_steps(count: int, batch_size: int, seed: int) -> Steps:
    """All pairs in a random order, cut into steps."""
    order = random.Random(seed).sample(range(count), count)
    return [order[i : i + batch_size] for i in range(0, count - batch_size + 1, batch_size)]


def draw_steps(pairs: list[dict], *, warmup: int, steps: int, batch_size: int, seed: int) -> Steps:
    """Random steps: of many draws, the one whose steps after the warm-up are most like all pairs.

    A measurement has only a few steps, and the lengths of this data differ by a factor of fifty. Within a step the
    pairs are in the order of their lengths, which is the best there is for a padded batch of some of them.
    """
    if len(pairs) < (warmup + steps) * batch_size:
        raise SystemExit(f"{len(pairs):,} pairs do not make {warmup + steps} steps of {batch_size}")
    everything = likeness(pairs, random_steps(len(pairs), batch_size, seed))
    draws = [random_steps(len(pairs), batch_size, seed + k)[: warmup + steps] for k in range(NUM_DRAWS)]

    def distance(draw: Steps) -> float:
        found = likeness(pairs, draw[warmup:])
        return sum(abs(found[name] / everything[name] - 1) for name in everything)

    best = min(draws, key=distance)
    return [sorted(step, key=lambda i: padded_length(pairs[i])) for step in best]


def main(spec: dict[str, Any]) -> None:
    folder = Path(spec["folder"])
    tokenizer = Tokenizer.from_file(str(Path(spec["tokenizer"]) / "tokenizer.json"))
    pairs, left_out = read_pairs(Path(spec["data"]))
    if len(pairs) > spec["pool"]:
        pairs = random.Random(spec["seed"]).sample(pairs, spec["pool"])
    pairs, further = with_ids(pairs, tokenizer, spec["max_length"])
    num_parameters = make_model(folder / "model", Path(spec["tokenizer"]), spec["shape"], spec["seed"])
    width = spec["shape"]["n_embd"]
    head = torch.randn(width, generator=torch.Generator().manual_seed(spec["seed"])) / (width + 1) ** 0.5
    write_json(folder / "score.json", head.tolist())
    facts: dict[str, Any] = {
        "parameters": num_parameters,
        "left_out": left_out | further,
        "likeness_of_all": rounded(likeness(pairs, random_steps(len(pairs), spec["batch_size"], spec["seed"]))),
    }
    for phase, steps in spec["phases"].items():
        drawn = draw_steps(pairs, warmup=spec["warmup"], steps=steps, batch_size=spec["batch_size"], seed=spec["seed"])
        write_json(folder / f"{phase}-steps.json", [[pairs[i] for i in step] for step in drawn])
        facts[f"{phase}_likeness"] = rounded(likeness(pairs, drawn[spec["warmup"] :]))
    write_json(folder / "facts.json", facts)


if __name__ == "__main__":
    main(read_json(sys.argv[1]))
