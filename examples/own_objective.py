"""A recipe of your own: tune on answers of which some are wrong, with a loss that gives up on them.

    loss[n] = (1 - p[n]^q) / q        q towards 0: the usual -log p;  q = 1: 1 - p, which wrong answers pull at least

Source: Zhang and Sabuncu 2018, "Generalized Cross Entropy Loss", arXiv:1805.07836, equation 6.

python examples/own_objective.py [MODEL] [DATA.jsonl]    # by default the base model that heed brings along
"""

import sys

import torch

import heed
from heed.data.chat import masked
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import fit_template, tokenise
from heed.dist.world import World
from heed.forest.build import build
from heed.lab.base_model import BASE_MODEL
from heed.models.load import load_model, prepare_training
from heed.models.score import forest_logp
from heed.recipes.training.setup import open_tokenizer
from heed.train.optimiser import adamw, set_learning_rate
from heed.train.step import Term, optimiser_step

Q, BATCH_SIZE, STEPS = 0.5, 8, 20
ANSWERS = [{"prompt": f"Say {word}.", "completion": word} for word in ("yes", "no", "rice", "owl")] * 40


def robust_loss(logp: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(N,) weight * (1 - p^q) / q of each trained token: an objective is a pure function of log-probabilities."""
    return weight * (1 - torch.exp(Q * logp)) / Q


def main(model_name: str = str(BASE_MODEL), data: object = ANSWERS) -> list[float]:
    model, tokenizer = load_model(model_name, torch.device("cpu")), open_tokenizer(model_name)
    template = fit_template(tokenizer.template or ChatTemplate.load("alpaca"), tokenizer)
    prepare_training(model, activations="keep")
    # records -> rendered chat, its trained spans proved -> tokens with a weight each
    sequences = [tokenise(text, tokenizer).tokens for record in heed.read(data) for text in masked(record, template)]

    # forest -> log-probabilities -> the objective's sum: its division is the step's
    def loss_of(forest: heed.Forest) -> tuple[torch.Tensor, dict[str, tuple[float, float]]]:
        logp = forest_logp(model, forest).logp
        return robust_loss(logp, forest.weight.to(logp)).sum(), {"p": (float(logp.detach().exp().sum()), len(logp))}

    optimiser, losses = adamw(model.named_parameters(), weight_decay=0.0), []
    set_learning_rate(optimiser, 1e-3)
    for step in range(STEPS):
        batch = [sequences[(step * BATCH_SIZE + i) % len(sequences)] for i in range(BATCH_SIZE)]
        term = Term([build(batch, share=True)], loss_of)
        numbers = optimiser_step(list(model.parameters()), optimiser, [term], max_norm=1.0, world=World())
        losses.append(numbers["loss"])
        print(f"step {step + 1}: loss {numbers['loss']:.3f}, mean probability of a trained token {numbers['p']:.3f}")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:])
