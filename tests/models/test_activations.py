"""What a forward keeps for its backward changes memory and nothing else."""

import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import transformers as t
from torch.autograd.graph import save_on_cpu
from torch.utils._python_dispatch import TorchDispatchMode

from heed.forest.build import build
from heed.models.adapters.lora import add_adapter
from heed.models.dropout import dropout_off, recompute_in_evaluation
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, prepare_training
from heed.models.recompute import contexts_of, inputs_on_cpu
from heed.models.score import forest_logp, forest_score
from heed.types import Forest, Tokens

pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

SHAPE = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
FAMILIES = {
    "llama": lambda: t.LlamaConfig(**SHAPE, intermediate_size=160, num_key_value_heads=2, attention_dropout=0.4),
    "gpt2": lambda: t.GPT2Config(**SHAPE, resid_pdrop=0.4, embd_pdrop=0.4, attn_pdrop=0.4, n_positions=512),
    "gemma2": lambda: t.Gemma2Config(
        **SHAPE,
        intermediate_size=160,
        num_key_value_heads=2,
        head_dim=16,
        attn_logit_softcapping=20.0,
        sliding_window=32,
    ),
}
WAYS = ("recompute", "selective", "offload")


def built(family: str) -> t.PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = t.AutoModelForCausalLM.from_config(FAMILIES[family]())
    speed_up(model)
    return model


def forest(num_sequences: int = 5, shared: int = 60) -> Forest:
    draw = np.random.default_rng(0)
    beginning = draw.integers(3, 97, shared)
    sequences = []
    for _ in range(num_sequences):
        ids = np.concatenate([beginning, draw.integers(3, 97, 50)]).astype(np.int32)
        weights = np.where(np.arange(len(ids)) < shared, 0.0, 1 / 250)
        sequences.append(Tokens(ids, weights))
    return build(sequences)


def gradients(model: t.PreTrainedModel, way: str, given: Forest) -> dict[str, torch.Tensor]:
    """Of a loss whose weights depend on what the model says, after a forward of something else."""
    scored = forest_logp(model, given, with_entropy=True)
    with torch.no_grad():
        forest_score(model, forest(2, 10))  # another forest is current before the backward
    (scored.logp.exp() * scored.logp).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_bits_whatever_is_kept(family, adapter, dtype):
    found = {}
    for way in ("keep", *WAYS):
        model = built(family)
        if adapter:
            loaded = add_adapter(
                LoadedModel(model, None), rank=4, alpha=8, new_token_ids=(), seed=0, targets=("all-linear",)
            )
            model = loaded.model
        prepare_training(model, activations=way)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            found[way] = gradients(model, way, forest())
    assert len(found["keep"]) > 8
    assert any(float(each.abs().max()) > 1e-4 for each in found["keep"].values())
    for way in WAYS:
        assert found[way].keys() == found["keep"].keys()
        for name, gradient in found["keep"].items():
            assert torch.equal(found[way][name], gradient), (way, name)


def test_inputs_that_were_copied_away_and_back_give_the_same_bits():
    """The hooks of offload, which on a CPU have nothing to do, made to copy here too."""
    wanted = built("llama")
    prepare_training(wanted)
    copied = built("llama")
    dropout_off(copied)
    copied.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts_of(copied, "offload")})
    times = []

    def around(*inputs):
        times.append(len(inputs))
        return save_on_cpu(pin_memory=True)  # copies, even from the CPU

    recompute_in_evaluation(copied, around=around)
    given, want = gradients(copied, "offload", forest()), gradients(wanted, "keep", forest())
    assert len(times) == 2 * SHAPE["num_hidden_layers"]  # of a forward with a gradient and one without
    assert all(torch.equal(given[name], want[name]) for name in want)


def test_inputs_on_another_device_are_sent_to_the_cpu_and_those_on_it_stay():
    assert isinstance(inputs_on_cpu(None, torch.zeros(1, device="meta")), save_on_cpu)
    assert not isinstance(inputs_on_cpu(None, torch.zeros(1)), save_on_cpu)


@dataclass
class Live:
    """Bytes of tensors made inside that are alive."""

    now: int = 0
    known: set[int] = field(default_factory=set)


class Watched(TorchDispatchMode):
    def __init__(self, live: Live) -> None:
        super().__init__()
        self.live = live

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        for each in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(each, torch.Tensor) and (storage := each.untyped_storage())._cdata not in self.live.known:
                self.live.known.add(storage._cdata)
                self.live.now += storage.nbytes()
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return found

    def gone(self, name: int, size: int) -> None:
        self.live.known.discard(name)
        self.live.now -= size


def bytes_kept(family: str, way: str, num_sequences: int = 5) -> int:
    """What is alive between the forward and the backward."""
    model, given, live = built(family), forest(num_sequences), Live()
    prepare_training(model, activations=way)
    with Watched(live):
        loss, _ = forest_score(model, given)
    assert loss.requires_grad
    return live.now


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_less_is_kept_by_selective_and_least_by_recompute(family):
    kept = {way: bytes_kept(family, way) for way in ("keep", "selective", "recompute")}
    assert kept["selective"] < 0.7 * kept["keep"]
    assert kept["recompute"] < 0.4 * kept["selective"]


def test_of_a_layer_recompute_keeps_its_input_alone():
    """The difference of two lengths: layers x tokens x width x 4 bytes, and what the head and the layout keep."""
    more, fewer = (forest(n) for n in (9, 5))
    tokens = len(more.ids) - len(fewer.ids)
    grown = bytes_kept("llama", "recompute", 9) - bytes_kept("llama", "recompute", 5)
    inputs = SHAPE["num_hidden_layers"] * tokens * SHAPE["hidden_size"] * 4
    assert inputs <= grown < 2.5 * inputs
