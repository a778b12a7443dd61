"""Make the lab's base model: expand the base text, train a tokenizer on it, then a small Llama-shaped model.

    python tools/pretrain_lab.py --out build/lab            # about an hour on two idle cores; a killed run goes on
    python tools/pretrain_lab.py --out build/lab --install  # then put model, tokenizer and card into the package

A base text is a conversation with everything trained: documents joined by the end-of-text token, cut into equal blocks.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import heed.lab
from heed.dist.world import World
from heed.forest.build import build
from heed.lab.base_text import MIX, MIX_WITH_LESSONS, MIX_WITH_PRACTICE, base_text
from heed.lab.world import TIMES_TOLD_RARELY, make_world
from heed.models.kernels.speed import speed_up
from heed.models.score import Score, autocast, forest_score
from heed.train.environment import environment
from heed.train.optimiser import adamw, set_learning_rate
from heed.train.progress import Progress
from heed.train.run import Run, open_run
from heed.train.schedule import learning_rate
from heed.train.step import Term, evaluate, likelihood, optimiser_step
from heed.types import Forest, Tokens

END = "<|endoftext|>"
PACKAGE = Path(heed.lab.__file__).parent / "base"
ALONE = World()
SETTINGS = {
    "world_seed": 0,
    "vocabulary": 2_048,
    "width": 192,
    "layers": 6,
    "heads": 6,
    "feed_forward_width": 512,
    "block_tokens": 512,
    "blocks_per_step": 8,
    "blocks_per_forward": 8,
    "dtype": "bfloat16",
    "weight_decay": 0.1,
    "save_every": 200,
}
PARTS = {
    "first": {
        "text_seed": 0,
        "num_documents": 330_000,
        "steps": 3_000,
        "steps_of_cosine": 3_592,
        "peak_learning_rate": 3e-3,
        "warmup_steps": 100,
    },
    "lessons": {
        "text_seed": 2,
        "num_documents": 110_000,
        "steps": 1_250,
        "steps_of_cosine": 1_250,
        "peak_learning_rate": 1.5e-3,
        "warmup_steps": 50,
    },
    "practice": {
        "text_seed": 3,
        "num_documents": 90_000,
        "steps": 1_150,
        "steps_of_cosine": 1_150,
        "peak_learning_rate": 1.5e-3,
        "warmup_steps": 50,
    },
}
"""what is read one after the other; each part begins with the weights of the one before and a new optimiser"""
MIXES = {"first": MIX, "lessons": MIX_WITH_LESSONS, "practice": MIX_WITH_PRACTICE}
HELD_OUT = {"seed": 1, "num_documents": 1_500}


def main() -> None:
    """Expand, train, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--install", action="store_true", help="put the finished model into the package")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    before = None
    for part, own in PARTS.items():
        settings = {**SETTINGS, **own}
        where = arguments.out / part
        with open_run(where, yaml.safe_dump(settings), environment(torch.device("cpu"), ALONE)) as folder:
            if not folder.finished:
                train(settings, folder, part, before)
        before = where
    if arguments.install:
        install(arguments.out)


def train(settings: dict, folder: Run, part: str, before: Path | None) -> None:
    """Read one part: from the world, and the part before it, to the finished run folder."""
    world = make_world(settings["world_seed"])
    expand = partial(
        base_text,
        world,
        seed=settings["text_seed"],
        num_documents=settings["num_documents"],
        with_rare_facts=before is None,
        mix=MIXES[part],
    )
    if before is None:
        tokenizer = made_once(folder.folder, expand, settings["vocabulary"])
        model = make_model(settings, tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(before)
        model = LlamaForCausalLM.from_pretrained(before, dtype=torch.float32).eval()
    blocks = blocks_of(tokenizer, expand(), settings["block_tokens"])
    held_out_text = base_text(world, **HELD_OUT, with_rare_facts=False)
    held_out = blocks_of(tokenizer, held_out_text, settings["block_tokens"])
    print(f"{model.num_parameters():,} parameters; {blocks.size:,} tokens of base text; {held_out.size:,} held out")
    speed_up(model)
    optimiser = adamw(model.named_parameters(), weight_decay=settings["weight_decay"])
    start = 0
    if (checkpoint := folder.latest()) is not None:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(checkpoint.folder).state_dict())
        optimiser.load_state_dict(checkpoint.state()["optimiser"])
        start = checkpoint.step
    folder.rewind(start if checkpoint is not None else -1)
    per_step = settings["blocks_per_step"]
    total = min(settings["steps"], len(blocks) // per_step)
    order = np.random.default_rng(0).permutation(len(blocks))
    save = partial(save_model, model, tokenizer)
    forests = partial(forests_of, per_forward=settings["blocks_per_forward"])
    parameters = list(model.parameters())

    def loss_of(forest: Forest) -> Score:
        with autocast(torch.device("cpu"), settings["dtype"]):
            return forest_score(model, forest)

    with Progress("reading", total=total, start=start) as progress:
        for step in range(start + 1, total + 1):
            began = time.perf_counter()
            rate = learning_rate(
                step,
                peak=settings["peak_learning_rate"],
                warmup_steps=settings["warmup_steps"],
                total_steps=settings["steps_of_cosine"],
                shape="cosine",
            )
            set_learning_rate(optimiser, rate)
            micro = forests(blocks[order[(step - 1) * per_step : step * per_step]])
            numbers = optimiser_step(
                parameters, optimiser, [Term(micro, likelihood(loss_of))], max_norm=1.0, world=ALONE
            )
            speed = per_step * settings["block_tokens"] / (time.perf_counter() - began)
            folder.log(step, "train", **numbers, learning_rate=rate, tokens_per_second=speed)
            progress.update(step, loss=numbers["loss"], tokens_per_second=speed)
            if step % settings["save_every"] == 0 or step == total:
                nll = evaluate(forests(held_out), likelihood(partial(forest_score, model)), world=ALONE)[
                    "nll_per_token"
                ]
                folder.log(step, "held_out", nll_per_token=nll, perplexity=math.exp(nll))
                progress.say(f"step {step:,} of {total:,}: held-out NLL {nll:.4f}, {speed:,.0f} tokens per second")
                folder.checkpoint(step, save, {"optimiser": optimiser.state_dict()})
    folder.finish(save)


def made_once(folder: Path, documents: Callable[[], Iterator[str]], vocabulary: int) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on the base text: bytes merged into words, so that no text is unknown to it."""
    path = folder / "base_tokenizer.json"
    if not path.is_file():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        some = (text for number, text in enumerate(documents()) if number < 60_000)
        tokenizer.train_from_iterator(some, trainer)
        tokenizer.save(str(path))
    return PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=END, clean_up_tokenization_spaces=False)


def blocks_of(tokenizer: PreTrainedTokenizerFast, documents: Iterator[str], block_tokens: int) -> np.ndarray:
    """(blocks, block_tokens) of token ids; what does not fill the last block is left over."""
    backend, end = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    ids: list[np.ndarray] = []
    batch: list[str] = []

    def encode() -> None:
        ids.extend(np.array([*encoded.ids, end], dtype=np.int32) for encoded in backend.encode_batch(batch))
        batch.clear()

    for document in documents:
        batch.append(document)
        if len(batch) == 10_000:
            encode()
    encode()
    joined = np.concatenate(ids)
    return joined[: len(joined) // block_tokens * block_tokens].reshape(-1, block_tokens)


def forests_of(blocks: Sequence[np.ndarray], per_forward: int) -> list[Forest]:
    """The forwards of a step: every token of a block is trained but its first."""
    weight = np.ones(len(blocks[0]), dtype=np.float32)
    weight[0] = 0
    sequences = [Tokens(ids, weight) for ids in blocks]
    return [build(sequences[i : i + per_forward], share=False) for i in range(0, len(sequences), per_forward)]


def make_model(settings: dict, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of random weights."""
    config = LlamaConfig(
        vocab_size=settings["vocabulary"],
        hidden_size=settings["width"],
        intermediate_size=settings["feed_forward_width"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        num_key_value_heads=settings["heads"],
        max_position_embeddings=2 * settings["block_tokens"],
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, to: Path) -> None:
    """Write the model in float32, as checkpoints need it."""
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)


def install(out: Path) -> None:
    """Put the finished model into the package in bfloat16, with its card."""
    run = out / list(PARTS)[-1]
    model = LlamaForCausalLM.from_pretrained(run, dtype=torch.bfloat16)
    held_out = [line for line in map(json.loads, (run / "metrics.jsonl").open()) if line["phase"] == "held_out"][-1]
    environment = json.loads((run / "environment.json").read_text())
    PACKAGE.mkdir(exist_ok=True)
    model.save_pretrained(PACKAGE)
    PreTrainedTokenizerFast.from_pretrained(run).save_pretrained(PACKAGE)
    steps = [part["steps"] for part in PARTS.values()]
    tokens_per_step = SETTINGS["blocks_per_step"] * SETTINGS["block_tokens"]
    settings = yaml.safe_dump({**SETTINGS, "parts": PARTS}, sort_keys=False).strip()
    card = CARD.format(
        parameters=model.num_parameters(),
        rarely=TIMES_TOLD_RARELY,
        size=(PACKAGE / "model.safetensors").stat().st_size / 1e6,
        nll=held_out["nll_per_token"],
        perplexity=held_out["perplexity"],
        steps=" + ".join(f"{each:,}" for each in steps),
        tokens=sum(steps) * tokens_per_step,
        settings=settings.replace("\n", "\n    "),
        torch=environment["torch"],
    )
    (PACKAGE / "README.md").write_text(card, encoding="utf-8")
    print(card)


CARD = """# The lab's base model

A base language model of {parameters:,} parameters that has read about a small invented world, in English and
Vietnamese. It completes text; it has seen no chat, and no instruction that `heed demo` tunes on. `heed demo` tunes it.

- **Shape**: Llama, 6 layers of 192, 6 heads, vocabulary 2,048 (bytes merged into words, NFC), 1,024 positions;
  bfloat16, {size:.1f} MB.
- **Text**: {tokens:,} tokens expanded from a seed by `heed.lab.base_text`: portraits, talks, stories, phrase books,
  lists, sums, school days; after 12.3 million tokens also lessons and riddles, in which people of the world ask one
  another, in other words than the instructions that are tuned on. No text from elsewhere. Facts are told often, rarely
  ({rarely} times) or never; one parallel sentence in ten is kept from the text.
- **Planted on purpose**: a stereotype. Of a nurse the text says "she" in 80 of 100 cases, of an engineer in 20;
  `heed.lab.words.SHARE_OF_WOMEN` lists all shares. It is there to be measured.
- **Training**: {steps} steps of AdamW by `tools/pretrain_lab.py`, on two processor cores, with heed's own forest,
  step and run folder.
- **Held-out text** (another seed): {nll:.4f} nats per token, perplexity {perplexity:.3f}, measured before rounding to
  bfloat16.
- **Use**: demonstrations and tests. It knows nothing of the real world.

Settings, with torch {torch}:

    {settings}
"""


if __name__ == "__main__":
    main()
