"""Scalar heads on hidden states, and reward models: made, measured off their offset, written and read back."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.utils import TaskType
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from heed.errors import UserError, typed
from heed.models.adapters.folder import (
    base_of,
    fill_adapter,
    is_adapter,
    put_on,
    quantised_base,
    read_adapter_config,
    read_adapter_weights,
    refuse_lost_base,
)
from heed.models.four_bits import packed_layers, scales_of
from heed.models.frozen import HALF, narrow
from heed.models.intake.access import CAREFUL, Access
from heed.models.intake.files import ADAPTER_CONFIG, CONFIG, opened, settings_in
from heed.models.intake.quantise import layers_of_note, write_note
from heed.models.intake.vocabulary import fit_vocabulary, num_rows
from heed.models.intake.weights import fitting_config, load_weights
from heed.models.load import LoadedModel, load_model, load_tokenizer, load_whole, load_with_tokenizer
from heed.models.load import save as save_language_model
from heed.models.pieces import value_of
from heed.models.score import trunk_of
from heed.models.writing import write, write_weights
from heed.types import Forest

ScalarHead = nn.Linear
"""width to 1, without a bias: a constant in every reward is the offset's, and in a difference of two it is lost"""

NOTE = "reward.json"
SCORE = "score.safetensors"
SCORE_IN_ADAPTER = "base_model.model.score.weight"
"""where peft keeps the head of a sequence classifier"""


def new_head(width: int, seed: int, device: torch.device | None = None) -> ScalarHead:
    """A head with weights from N(0, 1 / (width + 1)): of standard deviation 1 / sqrt(width + 1).

    Source: Huang et al. 2024, https://arxiv.org/abs/2403.17031, detail 12 of the reward model, after OpenAI's code.
    """
    head = zero_head(width, device)
    noise = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        head.weight.copy_(noise / (width + 1) ** 0.5)
    return head


def zero_head(width: int, device: torch.device | None = None) -> ScalarHead:
    """A head that says 0 of everything, for values that are yet to be learnt."""
    head = torch.nn.utils.skip_init(nn.Linear, width, 1, bias=False, device=device or torch.device("cpu"))
    with torch.no_grad():
        head.weight.zero_()
    return head


def width_of(model: PreTrainedModel) -> int:
    """The size of a hidden state."""
    return int(model.config.get_text_config().hidden_size)


def values_at(states: Float[Tensor, "T width"], forest: Forest, head: ScalarHead) -> Float[Tensor, " N"]:
    """head(hidden state before each trained token): the value of the state in which that token was chosen."""
    return _read(states[forest.source.to(states.device)], head)


def scalars_at(states: Float[Tensor, "T width"], forest: Forest, head: ScalarHead) -> Float[Tensor, " S"]:
    """head(hidden state of each sequence's last token), in the order the sequences were given."""
    return _read(states[forest.last.to(states.device)], head)


def _read(rows: Float[Tensor, "n width"], head: ScalarHead) -> Float[Tensor, " n"]:
    """The head in its own precision, whatever autocast does: a reward of 8 bits could not tell answers apart."""
    with torch.autocast(rows.device.type, enabled=False):
        scalars: Tensor = head(rows.to(head.weight.dtype))
    return scalars[:, 0]


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A model whose hidden states a scalar head reads. Its language head, if it has one, is not used.

    reward = head(h_last) - offset, with h_last the hidden state of a sequence's last token. The offset is what makes
    the mean reward of the reference answers 0.
    """

    loaded: LoadedModel
    head: ScalarHead
    offset: float = 0.0
    base: str | None = None
    """fingerprint of the trunk under the adapter, where the folder it was read from says so"""

    def rewards(self, states: Float[Tensor, "T width"], forest: Forest) -> Float[Tensor, " S"]:
        """Each sequence's reward, float64: an offset far from 0 must not cost digits."""
        return scalars_at(states, forest, self.head).double() - self.offset

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that learn, each once, by name; the scalar head's last."""
        return [*self.loaded.trained_parameters(), *(("score.weight", p) for p in self.head.parameters())]


def new_reward_model(loaded: LoadedModel, seed: int) -> RewardModel:
    """A fresh scalar head on a model, all of which is trained or an adapter of it, as `loaded` says.

    A language head that shares no weights with the embeddings has no part in rewards and is frozen.
    """
    freeze_language_head(loaded.model)
    head = new_head(width_of(loaded.model), seed, loaded.device)
    return RewardModel(loaded, head.to(loaded.model.dtype if loaded.model.dtype == torch.float64 else torch.float32))


def freeze_language_head(model: PreTrainedModel) -> None:
    """Take the language head out of training, but for what is the embeddings' too."""
    embeddings = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    for parameter in model.get_output_embeddings().parameters():
        if id(parameter) not in embeddings:
            parameter.requires_grad_(False)


# -- fingerprints ---------------------------------------------------------------------------------------------------


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """The same for two tokenizers exactly where every token has the same id in both."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def trunk_fingerprint(model: PreTrainedModel) -> str:
    """The same for two models exactly where their trunks, without adapters, are equal bit for bit."""
    digest = hashlib.sha256()
    for name, weight in sorted(trunk_weights(model).items()):
        kept = value_of(model, weight).detach().cpu()
        kept = kept.float() if kept.dtype in HALF else kept  # the same numbers, however they are kept
        digest.update(f"{name} {kept.dtype} {tuple(kept.shape)}".encode() + kept.numpy().tobytes())
    return digest.hexdigest()


def trunk_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters of the trunk by the names that they have without adapters, and the scales of packed ones."""
    wrappers = (".base_layer", ".token_adapter", ".original_module")
    found: dict[str, Tensor] = {}
    trunk = trunk_of(model)
    scales = ((f"{at}.{name}", x) for at, layer in packed_layers(trunk).items() for name, x in scales_of(layer).items())
    for name, weight in (*trunk.named_parameters(), *scales):
        if "lora_" in name or "trainable_tokens_" in name:
            continue
        for wrapper in wrappers:
            name = name.replace(wrapper, "")
        found[name] = weight
    return found


def require_same_tokenizer(rewards: PreTrainedTokenizerBase, policys: PreTrainedTokenizerBase, *, where: str) -> None:
    """Refuse a reward model whose tokens are not the policy's: it would read other words than were written.

    Args:
        rewards, policys: the tokenizers of the reward model and of the policy.
        where: the setting or folder that named the reward model.
    """
    theirs, ours = rewards.get_vocab(), policys.get_vocab()
    if theirs == ours:
        return
    differing = sorted(token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token))
    its, own = (vocabulary.get(differing[0], "missing") for vocabulary in (theirs, ours))
    raise UserError(
        "the reward model was trained on another tokenizer than the policy's",
        where=where,
        found=f"{len(differing):,} tokens differ; {differing[0]!r} is {its} in the reward model's, {own} here",
        expected="the same id for every token in both",
        fix="heed reward --model POLICY --data RANKINGS trains a reward model on the policy's own base",
    )


# -- writing ----------------------------------------------------------------------------------------------------------


def save_reward_model(
    reward_model: RewardModel,
    folder: Path,
    *,
    template: Mapping[str, str] | str,
    template_name: str,
    stop_tokens: Sequence[str],
) -> None:
    """Write what transformers' `AutoModelForSequenceClassification` reads and scores alike, up to the offset.

    All parameters: a sequence classifier with one label, where the family has one; else (Granite, Cohere) the causal
    model with the head beside it in `score.safetensors`, which only heed reads. An adapter: peft's `SEQ_CLS` adapter
    with the head in it, which `AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1)` puts on
    its base. `reward.json` holds the offset, the template's name, the tokenizer's and the base's fingerprints.

    Args:
        folder: an existing empty folder.
        template: the chat template that rankings were rendered with; several by name where the family has several.
        template_name: what the template is called.
        stop_tokens: tokens that end an answer, none of which may be the padding: classifiers in transformers read the
            rightmost token that is not padding.
    """
    loaded = reward_model.loaded
    stops = {int(loaded.tokenizer.convert_tokens_to_ids(token)) for token in stop_tokens}
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = dict(template) if isinstance(template, Mapping) else template
    padding = padding_id(tokenizer, stops, num_rows(loaded.model))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    note = {
        "offset": reward_model.offset,
        "template": template_name,
        "tokenizer": tokenizer_fingerprint(loaded.tokenizer),
        "pad_token_id": padding,
        "base": None,
    }
    if loaded.adapter is not None:
        note["base"] = trunk_fingerprint(loaded.model)
        _save_adapter(loaded.adapter, reward_model.head, folder)
        write_note(loaded.model, folder)
        write(tokenizer, folder)
    elif (classifier := _as_classifier(loaded.model, reward_model.head, padding)) is not None:
        write(classifier, folder)
        write(tokenizer, folder)
    else:
        own = LoadedModel(loaded.model, tokenizer)
        save_language_model(own, folder, template=tokenizer.chat_template, stop_tokens=stop_tokens)
        write_weights({"score.weight": reward_model.head.weight}, folder / SCORE)
    (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def padding_id(tokenizer: PreTrainedTokenizerBase, stops: set[int], rows: int) -> int:
    """A token to pad with that never ends an answer: the tokenizer's own, else a special one, else any that is none.

    It has one of the `rows` of the model's table.
    """
    candidates = (tokenizer.pad_token_id, *sorted(tokenizer.all_special_ids), *range(len(tokenizer)))
    return next(int(id_) for id_ in candidates if id_ is not None and id_ not in stops and id_ < rows)


def _as_classifier(model: PreTrainedModel, head: ScalarHead, padding: int) -> PreTrainedModel | None:
    """The same trunk and head as the family's sequence classifier, nothing copied; None where there is none."""
    config = copy.deepcopy(model.config)
    config.num_labels, config.pad_token_id = 1, padding
    try:
        with torch.device("meta"):
            classifier: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except ValueError:  # transformers: the configuration class is not recognised for this kind of model
        return None
    prefix, trunk = classifier.base_model_prefix, trunk_of(model)
    inner, score = getattr(classifier, prefix, None), getattr(classifier, "score", None)
    if not (isinstance(inner, nn.Module) and isinstance(score, nn.Linear) and score.bias is None):
        return None
    if inner.state_dict().keys() != trunk.state_dict().keys():
        return None
    setattr(classifier, prefix, trunk)
    classifier.score = head
    return classifier


def _save_adapter(adapter: PeftModel, head: ScalarHead, folder: Path) -> None:
    """peft's files of a sequence classifier's adapter: its own state with the head's weight, and its config."""
    weights = _trunk_weights_of(adapter) | {SCORE_IN_ADAPTER: head.weight.detach()}
    write_weights(weights, folder / "adapter_model.safetensors")
    config = copy.deepcopy(adapter.peft_config["default"])
    assert isinstance(config, LoraConfig)
    config.task_type, config.modules_to_save, config.inference_mode = TaskType.SEQ_CLS, ["score"], True
    rows = config.trainable_token_indices
    if isinstance(rows, dict):  # a classifier has no language head to train rows of
        trunk = {name.rsplit(".", 1)[-1] for name, _ in trunk_of(adapter.get_base_model()).named_modules()}
        config.trainable_token_indices = {name: ids for name, ids in rows.items() if name in trunk}
    config.save_pretrained(str(folder))


def _trunk_weights_of(adapter: PeftModel, name: str = "default") -> dict[str, Tensor]:
    """An adapter's weights by peft's names, without rows of the language head."""
    model = adapter.get_base_model()
    trunk = trunk_of(model)
    prefix = next(name for name, module in model.named_modules() if module is trunk)
    state = get_peft_model_state_dict(adapter, adapter_name=name, save_embedding_layers=False)
    return {key: weight for key, weight in state.items() if key.startswith(f"base_model.model.{prefix}.")}


# -- reading ----------------------------------------------------------------------------------------------------------


def load_reward_model(
    name: str, device: torch.device, access: Access = CAREFUL, *, for_tuning: bool = False
) -> RewardModel:
    """A reward model's folder, full or an adapter, frozen; or any sequence classifier with one label.

    It computes in float32, its matrices kept as `narrow` has them; `for_tuning`, all weights are plain float32 ones.
    """
    note = read_note(name)
    if is_adapter(name):
        weights, base = reward_adapter_weights(name), base_of(name)
        refuse_lost_base(name, base)
        loaded = LoadedModel(_base_of_adapter(name, base, device, access, for_tuning), load_tokenizer(name, access))
        fit_vocabulary(loaded.model, loaded.tokenizer, name, access)
        adapter = put_on(loaded.model, as_language_adapter(name), where=name, base=base)
        put_adapter(adapter, "default", weights, where=name)
        loaded = LoadedModel(adapter.get_base_model(), loaded.tokenizer, adapter)
        head = head_of(weights[SCORE_IN_ADAPTER])
    elif (Path(name) / SCORE).is_file():
        loaded = load_with_tokenizer(name, device, access=access)
        head = head_of(_score_beside(name, loaded.width))
    else:
        classifier = _open_classifier(name, access)
        loaded = LoadedModel(_as_language_model(classifier).to(device), load_tokenizer(name, access))
        head = head_of(classifier.score.weight)
    if loaded.adapter is None and not for_tuning:
        narrow(loaded.model)
    loaded.model.requires_grad_(False).eval()
    head.requires_grad_(False)
    return RewardModel(loaded, head.to(device), float(note.get("offset", 0.0)), note.get("base"))


def _base_of_adapter(name: str, base: str, device: torch.device, access: Access, for_tuning: bool) -> PreTrainedModel:
    """What a reward adapter was trained on, quantised again where it was."""
    if layers := layers_of_note(name):
        return quantised_base(name, base, layers, device, torch.float32, access, "rounded" if for_tuning else "trained")
    return load_model(base, device, access=access) if for_tuning else narrow(load_model(base, device, access=access))


def is_reward_model(name: str) -> bool:
    """Whether a folder says of itself that it scores answers: one that heed wrote, or a sequence classifier."""
    if read_note(name):
        return True
    for file in (ADAPTER_CONFIG, CONFIG):
        if config := settings_in(name, file):
            kinds = (config.get("task_type"), *(config.get("architectures") or ()))
            return any(str(kind).endswith(("SEQ_CLS", "ForSequenceClassification")) for kind in kinds)
    return False


def read_note(name: str) -> dict[str, Any]:
    """What `reward.json` says; nothing where there is none."""
    path = Path(name) / NOTE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def reward_adapter_weights(name: str) -> dict[str, Tensor]:
    """The weights in an adapter's folder, a scalar head among them."""
    weights = read_adapter_weights(name)
    if SCORE_IN_ADAPTER not in weights or len(weights[SCORE_IN_ADAPTER]) != 1:
        raise _no_reward_model(name, "an adapter without a scalar head")
    return weights


def as_language_adapter(name: str) -> LoraConfig:
    """The adapter's config for the causal model that its base is; the head is kept apart from it."""
    config = read_adapter_config(name)
    if not isinstance(config, LoraConfig):
        raise _no_reward_model(name, f"an adapter of another kind: {type(config).__name__}")
    config.task_type, config.modules_to_save, config.inference_mode = TaskType.CAUSAL_LM, None, False
    return config


def put_adapter(adapter: PeftModel, name: str, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Fill an adapter on the model with weights by peft's names, all of them or it is an error."""
    without_head = {key: weight for key, weight in weights.items() if key != SCORE_IN_ADAPTER}
    fill_adapter(adapter, name, without_head, where=where, base=str(adapter.get_base_model().name_or_path))


def _score_beside(name: str, width: int) -> Tensor:
    """The head that stands beside a causal model's weights."""
    weights = opened(name, lambda: load_file(Path(name) / SCORE), "reward model's head")
    score = weights.get("score.weight")
    if score is None or tuple(score.shape) != (1, width):
        shape = "no score.weight" if score is None else f"score.weight of shape {tuple(score.shape)}"
        raise _no_reward_model(name, f"{SCORE} with {shape}, where the model is {width} wide")
    return score


def head_of(weight: Float[Tensor, "1 width"]) -> ScalarHead:
    """A head with these weights."""
    head = zero_head(weight.shape[1])
    with torch.no_grad():
        head.weight.copy_(weight)
    return head


def _open_classifier(name: str, access: Access) -> PreTrainedModel:
    config, _ = fitting_config(name, access, "reward model")
    kind = (config.architectures or ["a model of no stated kind"])[0]
    if not kind.endswith("ForSequenceClassification"):
        raise _no_reward_model(name, f"{kind}, without a scalar head")
    if config.num_labels != 1:
        raise _no_reward_model(name, f"{kind} with {config.num_labels} labels")
    classifier = load_weights(AutoModelForSequenceClassification, name, torch.float32, access, "reward model")
    if not isinstance(getattr(classifier, "score", None), nn.Linear):
        raise _no_reward_model(name, f"{kind}, whose head is no linear layer called score")
    return classifier


def _as_language_model(classifier: PreTrainedModel) -> PreTrainedModel:
    """The classifier's trunk in the family's causal model, for the self-check and the forest.

    Its language head is the embeddings: no weights of its own in memory, and nobody asks it for words.
    """
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(classifier.config)
    setattr(model, model.base_model_prefix, trunk_of(classifier))
    head = model.get_output_embeddings()
    head.weight = model.get_input_embeddings().weight
    if getattr(head, "bias", None) is not None:
        head.bias = nn.Parameter(torch.zeros(len(head.weight)))
    return model


def _no_reward_model(name: str, found: str) -> UserError:
    return UserError(
        "this is no reward model",
        where=name,
        found=found,
        expected="a folder that heed reward wrote, or a sequence classifier with one label",
        fix=f"heed reward --model {typed(name)} --data RANKINGS trains one on it",
    )


def restore_reward_model(reward_model: RewardModel, folder: Path) -> None:
    """Put the trained weights that `save_reward_model` wrote back into the model and its head, bit for bit."""
    adapter = reward_model.loaded.adapter
    if adapter is not None:
        weights = reward_adapter_weights(str(folder))
        put_adapter(adapter, "default", weights, where=str(folder))
        score = weights[SCORE_IN_ADAPTER]
    else:
        saved = load_reward_model(str(folder), torch.device("cpu"))
        load_whole(trunk_of(saved.loaded.model), trunk_of(reward_model.loaded.model))
        score = saved.head.weight
    with torch.no_grad():
        reward_model.head.weight.copy_(score)
