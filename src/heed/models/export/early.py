"""Tell from its config and tokenizer alone that a model cannot be written as GGUF: weights may take minutes to load."""

from transformers import PreTrainedModel

from heed.models.adapters.folder import BASE, base_of, is_adapter, refuse_lost_base
from heed.models.export.families import family_of
from heed.models.export.vocabulary import vocabulary_of
from heed.models.intake.access import Access
from heed.models.intake.files import GENERATION, settings_in
from heed.models.intake.weights import fitting_config
from heed.models.load import load_tokenizer
from heed.models.stops import listed_ids


def refuse_unwritable_model(name: str, access: Access) -> None:
    """Raise what the translation of the loaded model would raise, where config and tokenizer tell it already.

    Raises:
        UserError: the family, its settings or the tokenizer are none that heed writes as GGUF.
    """
    quiet = Access(access.trust_remote_code, say=lambda line: None)  # loading says it all again
    base = name
    if is_adapter(name):
        base = base_of(name)
        refuse_lost_base(name, base)
    config, _ = fitting_config(base, quiet, "model" if base == name else BASE)
    brought = getattr(config, "auto_map", None) or {}
    family_of(config, name, own_code=access.trust_remote_code and "AutoModelForCausalLM" in brought)
    tokenizer = load_tokenizer(name, quiet)
    named = [settings_in(each, GENERATION).get("eos_token_id") for each in (name, base)]
    stops = [each for ids in (*named, config.eos_token_id) for each in listed_ids(ids)]
    vocabulary_of(tokenizer, max(len(tokenizer), config.vocab_size), list(dict.fromkeys(stops)), name)


def brings_code(model: PreTrainedModel) -> bool:
    """Whether a model is computed by code that came with it."""
    return type(model).__module__.split(".")[0] != "transformers"
