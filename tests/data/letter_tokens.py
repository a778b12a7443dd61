"""A tokenizer whose tokens are single bytes, so that tokens are counted by counting letters; and files of records."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from heed.data.prepare import Preparation
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer, fit_template


def letters() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    return Tokenizer.wrap(backend, {"eos_token": "</s>"})


TOKENIZER = letters()
TALK = (
    "{% for m in messages %}{% if m.role == 'user' %}Q:{{ m.content }}\n{% else %}A:{{ m.content }}{{ eos_token }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
FORGETFUL = TALK.replace("A:{{ m.content }}", "A:{{ m.content if loop.last else m.content.split('</think>')[-1] }}")
"""a template that shows earlier answers without their thoughts"""


def preparation(template: str = TALK, **changes) -> Preparation:
    settings = {"max_length": None, "too_long": "error", "max_bad_records": 0.0, "held_out_share": 0.0, **changes}
    return Preparation(template=fit_template(ChatTemplate(template, "own"), TOKENIZER), tokenizer=TOKENIZER, **settings)


def write(folder: Path, *records: object, name: str = "data.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def text_of(tokens) -> str:
    return TOKENIZER.backend.decode(tokens.ids.tolist(), skip_special_tokens=False)


def trained_text_of(tokens) -> str:
    return TOKENIZER.backend.decode(tokens.ids[tokens.weight > 0].tolist(), skip_special_tokens=False)
