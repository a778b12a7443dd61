"""Fold an adapter into its base: one model that loads anywhere, compared before it gets its name.

adapter on base -> merged -> written -> loaded again as plain transformers does -> compared
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from heed import files
from heed.config import MergeSettings
from heed.errors import UserError, typed
from heed.forest.build import common_prefix
from heed.models.adapters.folder import base_of
from heed.models.adapters.lora import next_token_logp, open_adapter
from heed.models.decode.sample import greedy
from heed.models.intake.access import Access, peft_warnings_hidden
from heed.models.intake.quantise import was_quantised, without_library
from heed.models.intake.vocabulary import fit_vocabulary
from heed.models.load import (
    SavedModel,
    SavedTokenizer,
    choose_device,
    load_model,
    load_tokenizer,
    num_positions,
    stored_dtype,
)
from heed.models.stops import stop_ids_of
from heed.models.writing import write

CONVERSATION = [
    {"role": "user", "content": "Give three tips for staying healthy. / Hãy nêu ba lời khuyên để sống khỏe mạnh."},
    {"role": "assistant", "content": "1. Eat vegetables every day. 2. Walk for half an hour. 3. Ngủ đủ giấc."},
]
"""what the models are compared on"""

TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-1}
"""largest difference of a log-probability from the adapter's, in nats, by the dtype of the written weights

All sides compute in float32. With float32 weights only the order of additions differs. The others round W + BA to 11
and 8 bits: an error of 2^-9 in every weight, through dozens of layers, moves the logits of large models by some
hundredths, and the unlikeliest of all tokens by several times that.
"""

MOST_OF_ANSWER = 32
"""tokens of the answer in which a quantised base and a whole one are compared"""

TOLERANCE_OF_COPY = 1e-5
"""the same for the model that is loaded again and the one that was written: their weights are the same bits"""


def run(settings: MergeSettings, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Merge, write, load what was written and compare; `say` is told what was found."""
    out = Path(settings.out)
    refuse_taken(out)
    device = choose_device(settings.device)
    access = Access(settings.trust_remote_code, say)
    adapter = open_adapter(settings.model, settings.base, device, access)
    base = settings.base or base_of(settings.model)
    dtype = stored_dtype(base, access)
    tokenizer = load_tokenizer(settings.model if has_tokenizer(settings.model) else base, access)
    fit_vocabulary(adapter.get_base_model(), tokenizer, settings.model, access)
    ids = tokenizer(words(tokenizer), add_special_tokens=False).input_ids[: num_positions(adapter.get_base_model())]
    say(f"adapter {settings.model} on base {base}")

    of_adapter = next_token_logp(adapter, ids)
    if settings.base is None and was_quantised(settings.model):
        say(moved_by_quantising(settings, adapter.get_base_model(), tokenizer, ids, access))
    with peft_warnings_hidden():
        merged = adapter.merge_and_unload()
    apart = largest_difference(of_adapter, next_token_logp(merged, ids))
    refuse_difference(apart, TOLERANCE[torch.float32], "merged", "the adapter on its base", settings)
    say(f"merged: log-probabilities differ by at most {apart:.1e} nats on {len(ids)} tokens of a conversation")

    with files.new_folder(out) as folder:
        cast_weights(merged, dtype)
        write(merged, folder)
        write(tokenizer, folder)
        cast_weights(merged, torch.float32)
        of_merged, stops = next_token_logp(merged, ids), stop_ids_of(merged)
        del merged, adapter  # the copy that is loaded again needs the room
        again = load_model(str(folder), device, access=access)
        of_copy = next_token_logp(again, ids)
        refuse_difference(
            largest_difference(of_merged, of_copy), TOLERANCE_OF_COPY, "written", "the merged one", settings
        )
        apart = largest_difference(of_adapter, of_copy)
        refuse_difference(
            apart, TOLERANCE.get(dtype, TOLERANCE[torch.float32]), "written", "the adapter on its base", settings
        )
        refuse_other_words(tokenizer, load_tokenizer(str(folder), access), stops, stop_ids_of(again))
    say(
        f"written in {str(dtype).removeprefix('torch.')} and loaded again: log-probabilities differ by at most "
        f"{apart:.1e} nats; chat template and stop tokens are those of the adapter"
    )
    say(f"the merged model is in {out}: heed chat --model {typed(out)}")


def moved_by_quantising(
    settings: MergeSettings, fresh: SavedModel, tokenizer: SavedTokenizer, ids: list[int], access: Access
) -> str:
    """How far the adapter on its whole base is from what was trained, on the same base in four bits; one line.

    The whole base is what is merged into, so that nothing is rounded a second time.
    """
    if lacking := without_library():
        return f"the adapter was trained on this base in NF4; without {lacking} here, the two are not compared"
    trained = open_adapter(settings.model, None, fresh.device, access, base_as="trained").get_base_model()
    before, after = next_token_logp(trained, ids), next_token_logp(fresh, ids)
    said = torch.tensor(ids[1:])[:, None]
    moved = (after[:-1].gather(1, said) - before[:-1].gather(1, said)).abs()
    same = int((before.argmax(-1) == after.argmax(-1)).sum())
    prompt = question(tokenizer)[: max(1, (num_positions(fresh) or MOST_OF_ANSWER) - MOST_OF_ANSWER)]
    ends = stop_ids_of(fresh)
    answers = [greedy(model, prompt, stop_ids=ends, max_new_tokens=MOST_OF_ANSWER) for model in (trained, fresh)]
    shared = common_prefix(*map(np.asarray, answers))
    return (
        f"the adapter was trained on this base in NF4, and is merged into the whole one: log-probabilities of the "
        f"{len(said)} tokens move by {float(moved.mean()):.2g} nats in the mean and {float(moved.max()):.2g} at most; "
        f"the likeliest token stays at {same} of {len(ids)} places; of a greedy answer of {len(answers[0])} tokens "
        f"the first {shared} stay"
    )


def question(tokenizer: SavedTokenizer) -> list[int]:
    """The conversation's first message, as the model is asked it."""
    if tokenizer.chat_template is None:
        return list(tokenizer(CONVERSATION[0]["content"], add_special_tokens=False).input_ids)
    text = tokenizer.apply_chat_template(CONVERSATION[:1], tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def words(tokenizer: SavedTokenizer) -> str:
    """The conversation as the model reads it; without a chat template, its plain text."""
    if tokenizer.chat_template is None:
        return "\n".join(message["content"] for message in CONVERSATION)
    rendered: str = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    return rendered


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Of any log-probability; infinite where one of the models computes no number."""
    apart = float((ours - theirs).abs().max())
    return apart if apart == apart else float("inf")


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the dtype of weights alone: rotary frequencies are no weights, and lose bits for good in another dtype."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def has_tokenizer(folder: str) -> bool:
    """Whether an adapter's folder brings a tokenizer: heed's runs do, other tools' may not."""
    return (Path(folder) / "tokenizer_config.json").is_file()


def refuse_taken(out: Path) -> None:
    """Nothing that is there is overwritten, and a folder that somebody stands in is not replaced."""
    if out.resolve() == Path.cwd():
        raise UserError(
            "the merged model cannot take the place of the folder that the command runs in",
            where="--out",
            found=f"{out}, which is {Path.cwd()}",
            expected="a folder that is not there yet, or another empty one",
            fix="--out merged",
        )
    is_lost = out.is_symlink() and not out.exists()
    if not is_lost and (not out.exists() or (out.is_dir() and not any(out.iterdir()))):
        return
    found = "a link that leads nowhere" if is_lost else "a file"
    if out.is_dir():
        names = sorted(path.name for path in out.iterdir())
        found = f"a folder with {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise UserError(
        "the folder for the merged model is taken",
        where="--out",
        found=f"{out}: {found}",
        expected="a folder that is empty or not there yet",
        fix=f"--out {typed(f'{out}-merged')}, or another folder",
    )


def refuse_difference(apart: float, tolerance: float, what: str, than: str, settings: MergeSettings) -> None:
    """A merged model that says something else is not kept."""
    if apart <= tolerance:
        return
    raise UserError(
        f"the {what} model disagrees with {than}",
        where=settings.model,
        found=f"log-probabilities that differ by {apart:.3g} nats",
        expected=f"at most {tolerance:g}",
        fix=f"keep the adapter as it is: heed chat --model {typed(settings.model)} needs no merging",
    )


def refuse_other_words(ours: SavedTokenizer, theirs: SavedTokenizer, stops: list[int], stops_again: list[int]) -> None:
    """What was written must render, encode and stop alike; otherwise the fault is heed's own."""
    text = words(ours)
    if words(theirs) != text or theirs(text).input_ids != ours(text).input_ids or stops_again != stops:
        raise AssertionError("the written tokenizer or generation config is not the adapter's")
