"""Which parameters learn where there is no adapter: all, the last layers, the head, or those of a name."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from heed.errors import UserError
from heed.models.four_bits import num_parameters
from heed.models.score import trunk_of
from heed.settings import nearest

ALL, HEAD, EMBEDDINGS, NORMS = "all", "head", "embeddings", "norms"
LAST = re.compile(r"last:(\d+)")


def choose_trained(model: PreTrainedModel, names: Sequence[str], *, new_token_ids: Sequence[int] = ()) -> None:
    """Let what `names` mean learn, and freeze the rest: it gets no gradient and no state in the optimiser.

    Args:
        names: `all`; `last:N`: the last N layers; `head`: what turns states into logits, which in many models is the
            table of embeddings; `embeddings`; `norms`; anything else is a parameter's name, a part of it between dots,
            or a pattern with `*`. None: everything is frozen.
        new_token_ids: tokens that were added to the vocabulary; their rows would stay noise if they were frozen.

    Raises:
        UserError: a name that no parameter has, more layers than there are, or new tokens that would not learn.
    """
    if ALL in names:
        return
    chosen = {id(parameter) for name in names for parameter in _meant_by(name, model)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    table = model.get_input_embeddings().weight
    if new_token_ids and not table.requires_grad:
        raise UserError(
            "tokens that the chat template adds would never learn what they mean",
            where="--train, --template",
            found=f"{len(new_token_ids)} new tokens, and --train {','.join(names)}, which leaves the embeddings frozen",
            expected="embeddings that are trained, or a template without new tokens",
            fix=f"--train {','.join([*names, EMBEDDINGS, *([HEAD] if HEAD not in names else [])])}",
        )


def tables_of(model: nn.Module) -> list[nn.Parameter]:
    """What learns a row at a time, so that most of it has no gradient in most steps: embeddings, rows of new tokens."""
    embeddings = (module for module in model.modules() if isinstance(module, nn.Embedding))
    rows = (parameter for name, parameter in model.named_parameters() if "trainable_tokens_" in name)
    return [*(parameter for table in embeddings for parameter in table.parameters()), *rows]


def _meant_by(name: str, model: PreTrainedModel) -> list[nn.Parameter]:
    if name == HEAD:
        return list(model.get_output_embeddings().parameters())
    if name == EMBEDDINGS:
        tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
        return [parameter for table in tables for parameter in table.parameters()]
    if name == NORMS:
        norms = (module for module in model.modules() if "norm" in type(module).__name__.lower())
        return [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
    if last := LAST.fullmatch(name):
        return _of_last_layers(model, int(last[1]))
    named = dict(model.named_parameters(remove_duplicate=False))
    found = [p for full, p in named.items() if fnmatchcase(full, name) or f".{name}." in f".{full}."]
    if found:
        return found
    parts = sorted({part for full in named for part in full.split(".") if not part.isdigit()})
    near = nearest(name, [ALL, HEAD, EMBEDDINGS, NORMS, "last:1", *parts])
    raise UserError(
        f"no parameter is called {name!r}",
        where="--train",
        found=name,
        expected=f"{ALL}, last:N, {HEAD}, {EMBEDDINGS}, {NORMS}, or parts of names: {', '.join(parts)}",
        fix=f"--train {near or ALL}",
    )


def _of_last_layers(model: PreTrainedModel, count: int) -> list[nn.Parameter]:
    num_layers = int(model.config.get_text_config().num_hidden_layers)
    lists = (module for module in trunk_of(model).modules() if isinstance(module, nn.ModuleList))
    layers = next((each for each in lists if len(each) == num_layers), None)
    if layers is None or not 1 <= count <= num_layers:
        raise UserError(
            f"the model has no last {count:,} layers" if layers is not None else "the model's layers are not in a list",
            where="--train",
            found=f"last:{count}",
            expected=f"last:1 to last:{num_layers}",
            fix=f"--train last:{num_layers}" if layers is not None and count else "--train last:1",
        )
    return [parameter for layer in layers[num_layers - count :] for parameter in layer.parameters()]


def how_many_learn(*parts: nn.Module) -> str:
    """One line for the user: `12,345 of 124,439,808 parameters are trained (0.010%)`."""
    num_trained, num_all = num_parameters(*parts, trained=True), num_parameters(*parts)
    share = "" if num_trained == num_all else f" ({num_trained / num_all:.2%})"
    return f"{num_trained:,} of {num_all:,} parameters are trained{share}"
