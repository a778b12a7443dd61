"""The detector of strange prompts on the lab: whole clusters of tasks that no one tuned on are found, better than by
perplexity, and new names, sentences and wordings of the tasks that were are not called strange.
"""

import os

import numpy as np
import pytest
import torch

import heed
from heed.cli.main import main
from heed.evaluate.strange import Detector, auroc, auroc_difference
from heed.forest.build import build
from heed.lab.base_model import BASE_MODEL
from heed.lab.base_text import base_text
from heed.lab.tasks.splits import held_out_tasks, training_tasks
from heed.lab.world import make_world
from heed.models.self_check import everything_trained
from heed.recipes.demo import TUNING, write_tasks

NUM_TUNED, PER_FAMILY = 2_500, 20


def perplexity(model, prompts):
    """Nats per token of each prompt, under the tuned model."""
    found = []
    for start in range(0, len(prompts), 64):
        ids = [np.array(model._prompt_ids(prompt, 1)) for prompt in prompts[start : start + 64]]
        forest = build([everything_trained(each) for each in ids])
        with torch.no_grad():
            logp = model._scores.logp(forest).logp.double().numpy()
        sums = np.bincount(forest.sequence.numpy(), weights=-logp)
        found += (sums / [len(each) - 1 for each in ids]).tolist()
    return np.array(found)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder, world = tmp_path_factory.mktemp("strange-lab"), make_world()
    write_tasks(folder / "train.jsonl", list(training_tasks(world, seed=0, count=NUM_TUNED)))
    how = {**TUNING, "eval_every": 0, "template": "chatml", "epochs": 1, "device": "cpu"}
    heed.sft(model=BASE_MODEL, data=folder / "train.jsonl", out=folder / "run", **how)
    text = base_text(world, seed=1, num_documents=3000, with_rare_facts=False)
    (folder / "text.txt").write_text("\n".join(" ".join(each.split()) for each in text), encoding="utf-8")
    words = ["--model", str(folder / "run"), "--background", str(folder / "text.txt"), "--device", "cpu"]
    assert main(["strange", *words]) == 0
    model = heed.load(folder / "run", device="cpu")
    splits = {
        name: [[{"role": m.role, "content": m.content} for m in task.messages] for task in tasks]
        for name, tasks in held_out_tasks(world, seed=0, per_family=PER_FAMILY).items()
    }
    states = {name: model.states(prompts) for name, prompts in splits.items()}
    return Detector.load(folder / "run"), states, {name: perplexity(model, each) for name, each in splits.items()}


@pytest.mark.slow
@pytest.mark.parametrize("usual", ["unseen_entities_and_sentences", "unseen_wordings"])
def test_clusters_that_no_one_tuned_on_are_found_better_than_by_perplexity(lab, usual):
    detector, states, nats = lab
    distance = {name: detector.distance(each) for name, each in states.items()}
    found = auroc(distance[usual], distance["unseen_clusters"])
    by_perplexity = auroc(nats[usual], nats["unseen_clusters"])
    better = auroc_difference(
        np.stack([distance[usual], nats[usual]]), np.stack([distance["unseen_clusters"], nats["unseen_clusters"]])
    )
    print(f"{usual}: {found}, perplexity {by_perplexity}, better by {better}", os.linesep)
    assert found.low > 0.7
    assert better.low > 0.2
    assert found.low > max(by_perplexity.high, 1 - by_perplexity.low), "also than by a perplexity read the other way"


@pytest.mark.slow
@pytest.mark.parametrize("usual", ["unseen_entities_and_sentences", "unseen_wordings"])
def test_new_names_and_wordings_of_what_was_tuned_on_are_not_strange(lab, usual):
    detector, states, _ = lab
    alarms = float((detector.p_values(states[usual]) <= 0.05).mean())
    print(f"{usual}: called strange at 0.05: {alarms:.3f} of {len(states[usual])}")
    assert alarms < 0.1
