"""The decoding step of plain transformer decoders, with little around the products that it cannot do without.

One token of each sequence is little work for a small model: in a module's own forward more time goes into calls than
into arithmetic. So the layers' weights are taken out once per call of `sample`, those that read the same input are laid
together (query, key and value; gate and up), active adapters are merged into them, and a step is a short loop over
them. Norms and activations stay the model's own modules, and attention is that of `decode`. Under autocast the weights
are cast once, not at every step; what lies between the products keeps the types that autocast gives it.

Which models this fits is read off the names of their modules, which say little of what is computed. So whoever makes a
`FastStep` compares it with the model's own forward before it is used: `decode_check`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from heed.models.adapters.effective import effective_linear, effective_table
from heed.models.decode.slots import Decoding
from heed.models.decode.together import attend
from heed.models.four_bits import has_packed
from heed.models.heads.language import Head, adjustment, as_multiplied, at_least_float32
from heed.models.kernels.matmul import multiply_rows
from heed.models.kernels.plain import plain
from heed.models.self_check import sliding_window

LARGEST_COPY = 512 * 1024 * 1024
"""bytes of weights that are laid together; in larger models the products take the time, and copies take memory"""

LLAMA = (
    {"embed_tokens", "layers", "norm", "rotary_emb"},
    {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"},
    {"q_proj", "k_proj", "v_proj", "o_proj"},
    {"gate_proj", "up_proj", "down_proj", "act_fn"},
)
GPT2 = (
    {"wte", "wpe", "drop", "h", "ln_f"},
    {"ln_1", "attn", "ln_2", "mlp"},
    {"c_attn", "c_proj", "attn_dropout", "resid_dropout"},
    {"c_fc", "c_proj", "act", "dropout"},
)
"""names of the modules in the model, in a layer, in its attention and in its feed-forward network; there are no others.

Attention may have `q_norm` and `k_norm` besides, which norm every head's query and key.
"""
HEAD_NORMS = {"q_norm", "k_norm"}

Linear = tuple[Tensor, Tensor | None]
"""weight (out, in) and bias"""
Rotation = tuple[Tensor, Tensor]
"""cosines and sines (sequences, 1, rotated size) at the sequences' positions"""


@dataclass(frozen=True, eq=False)
class Layer:
    """x = x + out(attention(norm_1(x))); x = x + down(act(gate) * up), or down(act(up)), of norm_2(x)."""

    norm_1: nn.Module
    qkv: Linear
    """heads of the queries, then of the keys, then of the values"""
    head_norms: tuple[nn.Module, nn.Module] | None
    scaling: float
    out: Linear
    norm_2: nn.Module
    up: Linear
    """where there is a gate, it comes first"""
    is_gated: bool
    activation: Callable[[Tensor], Tensor]
    down: Linear

    def feed_forward(self, x: Tensor) -> Tensor:
        """(sequences, width) to the same."""
        hidden = multiply_rows(x, *self.up)
        if self.is_gated:
            gate, up = hidden.chunk(2, dim=-1)
            return multiply_rows(self.activation(gate).mul_(up), *self.down)
        return multiply_rows(self.activation(hidden), *self.down)


@dataclass(frozen=True, eq=False)
class FastStep:
    """A model's weights as they are now, ready to decode with; see the module. To be made anew when they change."""

    embed: Callable[[Tensor, Tensor], Tensor]
    """the first states (sequences, width) of tokens and their positions"""
    rotary: Rotation | None
    """cosines and sines of all positions (longest, 1, rotated size)"""
    layers: tuple[Layer, ...]
    norm: nn.Module
    head: Head
    num_heads: int
    num_key_heads: int
    head_size: int

    @classmethod
    def of(cls, model: PreTrainedModel, longest: int) -> "FastStep | None":
        """Take the weights out of a model, or None where its modules are not those of a family known here.

        Args:
            longest: tokens of the longest sequence that may come about.
        """
        if plain():
            return None
        base = model.base_model
        parameters = list(base.parameters())
        same = len({(parameter.dtype, parameter.device) for parameter in parameters}) == 1
        size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        if model.dtype not in (torch.float32, torch.float64) or not same or size > LARGEST_COPY:
            return None
        # Unpacked copies of a base in four bits would take eight times its memory.
        if model.training or has_packed(base):
            return None
        if sliding_window(model.config.get_text_config()) is not None:
            return None
        try:
            if _fits(base, LLAMA, "layers", "self_attn"):
                return _of_llama(model, longest)
            if _fits(base, GPT2, "h", "attn"):
                return _of_gpt2(model)
        except (TypeError, AttributeError):  # a layer that is more than it seems
            return None
        return None

    def __call__(self, decoding: Decoding, tokens: Tensor) -> Tensor:
        """Add a token to each active sequence; returns the final hidden states (sequences, width)."""
        position = decoding.begin_step()
        rotation = None if self.rotary is None else (self.rotary[0][position], self.rotary[1][position])
        x = self.embed(tokens, position)
        for layer in self.layers:
            x = x.add_(self.attention(layer, layer.norm_1(x), rotation, decoding))
            x = x.add_(layer.feed_forward(layer.norm_2(x)))
        decoding.end_step()
        states: Tensor = self.norm(x)
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Logits (rows, vocabulary) of final hidden states."""
        logits = self.head.logits(states)
        return logits.to(at_least_float32(logits.dtype))

    def attention(self, layer: Layer, x: Tensor, rotation: Rotation | None, decoding: Decoding) -> Tensor:
        """(sequences, width) to the same."""
        heads = multiply_rows(x, *layer.qkv).unflatten(1, (-1, self.head_size))
        seen = self.num_heads + self.num_key_heads
        query_key, value = heads[:, :seen], heads[:, seen:]
        if layer.head_norms is not None:
            query_norm, key_norm = layer.head_norms
            query_key = torch.cat(
                [query_norm(query_key[:, : self.num_heads]), key_norm(query_key[:, self.num_heads :])], dim=1
            )
        if rotation is not None:
            query_key = rotated(query_key, *rotation)
        query, key = query_key[:, : self.num_heads], query_key[:, self.num_heads :]
        return multiply_rows(attend(decoding, query, key, value, scale=layer.scaling).flatten(1), *layer.out)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of (sequences, heads, size), of as many of the first entries as there are angles.

    Entry i of the first half is turned together with entry i of the second, as transformers' `rotate_half` has it
    (Su et al. 2021, arXiv:2104.09864, equation 34, pairs neighbours instead).
    """
    size = cos.shape[-1]
    half = size // 2
    turned, rest = x[..., :size], x[..., size:]
    out = turned * cos
    out[..., :half].addcmul_(turned[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(turned[..., :half], sin[..., half:])
    return torch.cat([out, rest], dim=-1) if rest.shape[-1] else out


def _fits(base: nn.Module, family: tuple[set[str], ...], layers: str, attention: str) -> bool:
    """Whether the modules are those of the family, and no others."""
    of_model, of_layer, of_attention, of_network = family
    return _names(base) == of_model and all(
        _names(layer) == of_layer
        and _names(getattr(layer, attention)) in (of_attention, of_attention | HEAD_NORMS)
        and _names(layer.mlp) == of_network
        for layer in getattr(base, layers)
    )


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _of_llama(model: PreTrainedModel, longest: int) -> FastStep:
    base, config = model.base_model, model.config.get_text_config()
    table = effective_table(base.embed_tokens)
    layers = []
    for layer in base.layers:
        attention, network = layer.self_attn, layer.mlp
        norms = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None
        layers.append(
            Layer(
                layer.input_layernorm,
                side_by_side(attention.q_proj, attention.k_proj, attention.v_proj),
                norms,
                attention.scaling,
                side_by_side(attention.o_proj),
                layer.post_attention_layernorm,
                side_by_side(network.gate_proj, network.up_proj),
                True,
                network.act_fn,
                side_by_side(network.down_proj),
            )
        )
    device = next(base.parameters()).device
    positions = torch.arange(longest, device=device)[None]
    cos, sin = base.rotary_emb(torch.empty(0, dtype=model.dtype, device=device), positions)

    def embed(tokens: Tensor, position: Tensor) -> Tensor:
        return base.embed_tokens(tokens) if table is None else embedding(tokens, table)

    heads, size = config.num_attention_heads, base.layers[0].self_attn.head_dim
    rotary = cos[0][:, None], sin[0][:, None]
    return FastStep(embed, rotary, tuple(layers), base.norm, head_of(model), heads, config.num_key_value_heads, size)


def _of_gpt2(model: PreTrainedModel) -> FastStep:
    base, config = model.base_model, model.config.get_text_config()
    table = effective_table(base.wte)
    layers = [
        Layer(
            layer.ln_1,
            side_by_side(layer.attn.c_attn),
            None,
            layer.attn.scaling,
            side_by_side(layer.attn.c_proj),
            layer.ln_2,
            side_by_side(layer.mlp.c_fc),
            False,
            layer.mlp.act,
            side_by_side(layer.mlp.c_proj),
        )
        for layer in base.h
    ]

    def embed(tokens: Tensor, position: Tensor) -> Tensor:
        states: Tensor = base.wte(tokens) if table is None else embedding(tokens, table)
        return states + base.wpe(position)

    heads = config.num_attention_heads
    return FastStep(embed, None, tuple(layers), base.ln_f, head_of(model), heads, heads, config.hidden_size // heads)


def head_of(model: PreTrainedModel) -> Head:
    """The model's head with its adapters merged."""
    weight, bias = effective_linear(model.get_output_embeddings())
    return Head(as_multiplied(weight), None if bias is None else as_multiplied(bias), *adjustment(model))


@torch.no_grad()
def side_by_side(*modules: nn.Module) -> Linear:
    """One linear layer that gives the results of several one after the other, their adapters merged.

    A transposed weight is laid out anew, so that its product is as fast as any other's.
    """
    weights, biases = zip(*map(effective_linear, modules), strict=True)
    weight = as_multiplied(torch.cat(weights) if len(weights) > 1 else weights[0].detach().contiguous())
    if all(bias is None for bias in biases):
        return weight, None
    all_biases = [w.new_zeros(len(w)) if b is None else b.detach() for w, b in zip(weights, biases, strict=True)]
    return weight, as_multiplied(torch.cat(all_biases))
