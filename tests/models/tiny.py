"""Tiny random models of several shapes with a tokenizer, in folders as a user has them."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
import torch
import transformers as t
from tokenizers import decoders, models, pre_tokenizers, trainers

from heed.models.adapters.lora import add_adapter, keep_base
from heed.models.load import LoadedModel, add_tokens, load_model, load_tokenizer

CPU = torch.device("cpu")
END = "<|endoftext|>"
CHATML_TOKENS = ("<|im_end|>", "<|im_start|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
SHAPES = ("llama tied", "llama untied", "gpt2 tied", "gpt2 untied")


def make_tokenizer() -> t.PreTrainedTokenizerFast:
    """Byte-level BPE of some 280 tokens, one of them special."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["How are you today? Xin chào các bạn."], trainer)
    return t.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def config_of(shape: str, num_rows: int) -> t.PreTrainedConfig:
    """The config of a model of this shape: a family, and whether embeddings and head share their weights."""
    common = {"vocab_size": num_rows, "eos_token_id": 0, "bos_token_id": 0, "initializer_range": 0.2}
    tied = "untied" not in shape
    if shape.startswith("gpt2"):
        return t.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=96, tie_word_embeddings=tied, **common)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    if shape.startswith("phi"):  # its head has a bias
        return t.PhiConfig(tie_word_embeddings=False, max_position_embeddings=96, **sizes, **common)
    return t.LlamaConfig(num_key_value_heads=2, max_position_embeddings=96, tie_word_embeddings=tied, **sizes, **common)


def write_base(
    folder: Path, shape: str, *, dtype: torch.dtype = torch.float32, num_spare_rows: int = 0, **generation: object
) -> str:
    """A base model's folder. `generation` are entries of its generation config."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(config_of(shape, len(tokenizer) + num_spare_rows)).to(dtype)
    model.save_pretrained(folder)
    if generation:
        # Written by hand, as published ones are: transformers itself would refuse some of them.
        (folder / "generation_config.json").write_text(
            t.GenerationConfig(eos_token_id=0, **generation).to_json_string(use_diff=True)
        )
    tokenizer.save_pretrained(folder)
    return str(folder)


def opened(
    base: str, run: Path, *, rank: int, new_tokens: Sequence[str], stop_tokens: Sequence[str], seed: int = 0
) -> LoadedModel:
    """What `heed sft` opens: tokens added, the base kept where needed, an adapter on it if `rank` is not 0."""
    run.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model(base, CPU), load_tokenizer(base)
    ids = add_tokens(model, tokenizer, new_tokens, seed=0)
    loaded = LoadedModel(model, tokenizer)
    if rank:
        keep_base(loaded, run / "base", new_token_ids=ids, stop_tokens=stop_tokens)
        loaded = add_adapter(loaded, rank=rank, alpha=2.0 * rank, new_token_ids=ids, seed=seed)
    return loaded


def train(loaded: LoadedModel, seed: int = 1) -> None:
    """Move everything that is trained, as training would, and the rest not at all."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in loaded.trained_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def trained(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """Copies of what is trained."""
    return {name: parameter.detach().clone() for name, parameter in loaded.trained_parameters()}
