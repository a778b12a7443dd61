"""A model made from its config alone, without weights: what it would hold, and what a step of it would.

    config.json -> model on the meta device -> four bits, adapter, what is trained -> blank tensors -> one step

All of it by the functions that a run calls, so that a plan follows the run's own rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.quantizers import AutoHfQuantizer

from heed.forest.build import build
from heed.models.adapters.folder import base_of, is_adapter
from heed.models.adapters.lora import add_adapter
from heed.models.attention.forest_attention import NAME, attention_named, no_mask
from heed.models.attention.layout import ForestLayout
from heed.models.blank import CPU, LiveBytes, as_blank, make_blank
from heed.models.four_bits import BLOCK_SIZE, hold_packed, packed_layers, scales_of
from heed.models.heads.scalar import freeze_language_head
from heed.models.intake.access import Access
from heed.models.intake.dtypes import HALF, checkpoint_dtype, weight_files
from heed.models.intake.files import opened
from heed.models.intake.quantise import forget_library, refuse_nothing_packed, while_reading
from heed.models.intake.weights import fitting_config
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, num_positions, prepare_training
from heed.models.score import autocast, layers_of, logp_of, nll_of, rows_states, trunk_of
from heed.models.self_check import rope_kind
from heed.models.trained import choose_trained, tables_of
from heed.types import Forest, Tokens

KERNEL = "heed_blank_kernel"
BLOCK_OF_SCALES = 256
LEAST_LAYERS = 2
"""from which on a further layer that is alike adds what the last one added"""

Loss = Literal["nll", "logp", "reward"]
"""what the last hidden states are turned into: a loss of known weights, log-probabilities, or a score"""


@dataclass(frozen=True)
class Held:
    """A tensor that a process holds all the time."""

    shape: tuple[int, ...]
    itemsize: int
    """bytes of a number"""
    is_trained: bool = False
    is_table: bool = False
    """whether its moments keep 32 bits whatever the optimiser's bits are"""
    is_divided: bool = True
    """whether each process holds a part where a model is divided; buffers and scales are whole"""
    layer: int | None = None
    """the layer it is in; None where it is in none"""

    @property
    def size(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class StepMemory:
    """What a forward and its backward hold, in bytes, beside parameters, buffers and gradients."""

    activations: int
    """kept for the backward when the trunk's forward ends"""
    logits: int
    """most that the head, its loss and their gradients add"""
    backward: int
    """most that the backward holds beyond these two: gradients of activations and of one weight, and layers that are
    computed again"""

    @property
    def peak(self) -> int:
        """The most that is held at once."""
        return self.activations + self.logits + self.backward


@dataclass(frozen=True, eq=False)
class BlankModel:
    """A model without weights, ready for a step."""

    model: PreTrainedModel
    blank: FakeTensorMode
    checkpoint_size: int
    """bytes of a number in the model's files"""

    @property
    def cache_per_token(self) -> int:
        """Bytes of a token's keys and values in all layers, in float32: an estimate by the config."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or self.width // config.num_attention_heads
        return int(2 * 4 * config.num_hidden_layers * heads * size)

    @property
    def positions(self) -> int | None:
        """The longest sequence it has positions for; None where there is no limit."""
        return num_positions(self.model)

    @property
    def width(self) -> int:
        """Numbers of a hidden state."""
        return int(self.model.config.get_text_config().hidden_size)


def blank_model(
    name: str,
    access: Access,
    *,
    rank: int,
    targets: Sequence[str],
    train: Sequence[str],
    quantise: bool,
    recompute: bool,
    is_reward: bool = False,
) -> BlankModel:
    """The model of a folder or hub name as a run would open it, without its weights.

    Args:
        rank: of the adapter; 0 for none, and then `train` says what learns.
        recompute: whether activations are computed twice.
        is_reward: whether the language head has no part in it.

    Raises:
        UserError: the config is not there, cannot be read, or is of no language model that transformers knows.
    """
    base = base_of(name) if is_adapter(name) else name
    config, _ = fitting_config(base, access, "model")
    kept = dtype_of(name, config)
    dtype = kept if rank else torch.float32

    def make() -> PreTrainedModel:
        with torch.device("meta"):
            made: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=access.trust_remote_code
            )
        return made.eval()

    model = opened(base, make, "model")
    if quantise:
        pack(model)
        refuse_nothing_packed(model, name)
    if rank:
        loaded = LoadedModel(model, None)  # type: ignore[arg-type]  # no token is added, so none is looked up
        with torch.random.fork_rng():
            model = add_adapter(loaded, rank=rank, alpha=1.0, new_token_ids=(), seed=0, targets=targets).model
    else:
        choose_trained(model, train)
    if is_reward:
        freeze_language_head(model)
    blank = FakeTensorMode(allow_non_fake_inputs=True)
    make_blank(model, blank)
    for module in packed_layers(model).values():
        state: Any = module.quant_state
        state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code = (
            as_blank(x, blank) for x in (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
        )
    _speed_up(model)
    prepare_training(model, activations="recompute" if recompute else "keep")
    return BlankModel(model, blank, kept.itemsize)


def dtype_of(name: str, config: Any) -> torch.dtype:
    """The dtype that a frozen base keeps: that of its files, or of its config where there are none yet."""
    if is_adapter(name) or (Path(name).is_dir() and weight_files(name)):
        return checkpoint_dtype(name)
    return config.dtype if config.dtype in HALF.values() else torch.float32


def pack(model: PreTrainedModel) -> None:
    """Give a model on the meta device four-bit layers where reading its weights would."""
    from bitsandbytes.functional import QuantState  # of an extra

    config = while_reading(CPU)["quantization_config"]
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map=None)
    for module in model.modules():
        if type(module).__name__ != "Linear4bit":
            continue
        shape = tuple(module.weight.shape)
        blocks = -(-math.prod(shape) // BLOCK_SIZE)
        with torch.device("meta"):
            scales = QuantState(
                absmax=torch.empty(-(-blocks // BLOCK_OF_SCALES)), code=torch.empty(256), blocksize=BLOCK_OF_SCALES,
                dtype=torch.float32,
            )  # fmt: skip
            state = QuantState(
                absmax=torch.empty(blocks, dtype=torch.uint8), shape=torch.Size(shape), code=torch.empty(16),
                blocksize=BLOCK_SIZE, quant_type="nf4", dtype=torch.float32, offset=torch.empty(()), state2=scales,
            )  # fmt: skip
            codes = torch.empty((math.prod(shape) + 1) // 2, 1, dtype=torch.uint8)
        module.weight = nn.Parameter(codes, requires_grad=False)
        module.weight.quant_state = state
    hold_packed(model)
    forget_library(model)


def _speed_up(model: PreTrainedModel) -> None:
    """Swap slow forwards for fused ones; norms, which are tried on numbers, have some meanwhile."""
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    blanks = [module._parameters.get("weight") for module in norms]
    for module, weight in zip(norms, blanks, strict=True):
        if weight is not None:
            module._parameters["weight"] = nn.Parameter(torch.ones(tuple(weight.shape), dtype=weight.dtype))
    speed_up(model)
    for module, weight in zip(norms, blanks, strict=True):
        if weight is not None:
            module._parameters["weight"] = weight


def held_by(model: PreTrainedModel) -> list[Held]:
    """What a model holds all the time: its parameters, each once, its buffers, and the scales of four bits."""
    of_layer = {id(p): at for at, layer in enumerate(layers_of(model)) for p in layer.parameters()}
    tables = {id(table) for table in tables_of(model)}
    held = [
        Held(
            tuple(p.shape), p.element_size(), is_trained=p.requires_grad, is_table=id(p) in tables,
            layer=of_layer.get(id(p)),
        )
        for p in model.parameters()
    ]  # fmt: skip
    scales = [scale for module in packed_layers(model).values() for scale in scales_of(module).values()]
    whole = [*{id(buffer): buffer for buffer in model.buffers()}.values(), *scales]
    return held + [Held(tuple(x.shape), x.element_size(), is_divided=False) for x in whole]


# -- one step ---------------------------------------------------------------------------------------------------------


def step_memory(
    made: BlankModel, lengths: Sequence[int], *, loss: Loss, dtype: str, kernel: bool, whole: bool = False
) -> StepMemory:
    """What a forward over sequences of these lengths holds, every token of them trained, and its backward.

    Of layers that are all alike a few are followed, and the others added: each holds what the last of them does. The
    model is used up.

    Args:
        dtype: of activations.
        kernel: whether attention is one kernel that keeps queries, keys, values, output and log-sum-exps, as on a GPU;
            else it is heed's attention on a CPU.
        whole: whether all layers are followed even so.
    """
    model, forest = made.model, forest_of(lengths)

    def measured() -> StepMemory:
        return measure_step(
            model, forest, loss=loss, dtype=dtype, attention=KERNEL if kernel else NAME, blank=made.blank
        )

    layers = layers_of(model)
    alike = len({_kind_of(model, layer, at) for at, layer in enumerate(layers)}) == 1
    if whole or not alike or len(layers) <= LEAST_LAYERS + 1:
        return measured()
    found = []
    holder = next(m for m in trunk_of(model).modules() if isinstance(m, nn.ModuleList) and len(m) == len(layers))
    for count in (LEAST_LAYERS + 1, LEAST_LAYERS):
        del holder[count:]
        found.append(measured())
    more, fewer = found
    further = len(layers) - LEAST_LAYERS - 1

    def extended(of: Callable[[StepMemory], int]) -> int:
        return of(more) + further * (of(more) - of(fewer))

    activations = extended(lambda each: each.activations)
    before_backward = extended(lambda each: each.activations + each.logits)
    peak = max(extended(lambda each: each.peak), before_backward)
    return StepMemory(activations, before_backward - activations, peak - before_backward)


def measure_step(
    model: PreTrainedModel,
    forest: Forest,
    *,
    loss: Loss,
    dtype: str,
    attention: str = NAME,
    blank: FakeTensorMode | None = None,
) -> StepMemory:
    """Run one forward and backward of a model, blank or real, and count what is alive meanwhile.

    Gradients are there before, as in all micro-batches of a step but the first.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    with blank or nullcontext():
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in trained if p.grad is not None]
    scales = [scale for module in packed_layers(model).values() for scale in scales_of(module).values()]
    counted = LiveBytes([*model.parameters(), *model.buffers(), *gradients, *scales], blank)
    with counted:
        with autocast(CPU, dtype):
            states = _states(model, forest, attention)
            activations, forward_peak = counted.live, counted.peak
            counted.mark()
            total = _loss_of(model, states, forest, loss)
        head_peak = counted.peak
        del states
        counted.mark()
        total.backward()  # type: ignore[no-untyped-call]
        del total
    logits = max(0, head_peak - activations)
    peak = max(forward_peak, head_peak, counted.peak)
    return StepMemory(activations, logits, peak - activations - logits)


def _states(model: PreTrainedModel, forest: Forest, attention: str) -> Tensor:
    config = model.config.get_text_config()
    if getattr(config, "attention_chunk_size", None) or rope_kind(config) is not None:  # as `choose_score` has it
        return rows_states(model, forest, max_tokens=1 if rope_kind(config) is not None else None)
    layout = ForestLayout.of(forest, CPU)
    with attention_named(model, attention):
        output = trunk_of(model)(
            input_ids=forest.ids[None], position_ids=layout.position[None], use_cache=False, forest=layout
        )
    if not layout.num_attention_calls:
        raise NotImplementedError("this family's attention cannot be replaced")
    states: Tensor = output.last_hidden_state[0]
    return states


def _loss_of(model: PreTrainedModel, states: Tensor, forest: Forest, loss: Loss) -> Tensor:
    if loss == "nll":
        return nll_of(model, states, forest)[0]
    if loss == "logp":
        return -logp_of(model, states, forest).logp.sum()
    return states[forest.last].float().sum()


def forest_of(lengths: Sequence[int]) -> Forest:
    """Sequences of these lengths that share nothing, every token but the first of each trained."""
    return build(
        [Tokens(np.zeros(n, dtype=np.int32), np.r_[0.0, np.ones(n - 1)].astype(np.float32)) for n in lengths],
        share=False,
    )


def _kind_of(model: PreTrainedModel, layer: nn.Module, at: int) -> tuple[Any, ...]:
    """What must be equal of layers that hold the same in a step."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    named = tuple((name, p.shape, p.dtype, p.requires_grad) for name, p in layer.named_parameters())
    return type(layer).__name__, named, kinds[at] if at < len(kinds) else None


class KernelAttention(torch.autograd.Function):
    """What attention by one kernel holds; nothing is computed."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        """(1, heads, T, size) each; returns the shape of the output."""
        _, heads, length, _ = query.shape
        out = query.new_empty(1, length, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Gradients of query, key and value."""
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _kernel_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    forest: ForestLayout,
    **others: Any,
) -> tuple[Tensor, None]:
    forest.num_attention_calls += 1
    query, key = query.to(value.dtype), key.to(value.dtype)
    out: Tensor = KernelAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


AttentionInterface.register(KERNEL, _kernel_attention)
AttentionMaskInterface.register(KERNEL, no_mask)
