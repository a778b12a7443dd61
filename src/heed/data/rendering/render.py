"""Chat templates: found, compiled once, and rendered byte for byte as transformers' `apply_chat_template` does."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2

from heed.data.rendering.jinja_environment import compiled
from heed.errors import UserError, typed
from heed.types import Message

BUILT_IN_FOLDER = Path(__file__).parent.parent / "templates"
BUILT_IN = ("alpaca", "chatml", "plain")

# The names under which a template finds the tokenizer's special tokens.
TOKEN_VARIABLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

SpecialText = Literal["error", "as-text", "strip"]

# The names a message's reasoning goes under, the standard one first.
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A chat template with the special tokens it writes and the date it believes in.

    Hashable, so that what is worked out about a template is worked out once.
    """

    source: str
    """jinja text, which a tuned model is saved with"""
    name: str
    """for error messages: a built-in's name or a path"""
    variables: tuple[tuple[str, str], ...] = ()
    """the special tokens by the names a template uses, such as ("eos_token", "</s>")"""
    special_tokens: frozenset[str] = frozenset()
    """every string that stands for a special token, named or not: it may not occur in data"""
    alternatives: tuple[tuple[str, str], ...] = ()
    """further jinja texts by name; the one called tool_use is taken when a conversation has tools"""
    special_text: SpecialText = "error"
    """what is done with special tokens that are written out in data: a finding, text like any other, or left out"""
    date: datetime.date = field(default_factory=lambda: datetime.datetime.now().date())
    """what `strftime_now` tells the template"""

    @staticmethod
    def load(spec: str | Path) -> ChatTemplate:
        """Find a template: `alpaca`, `chatml`, `plain`, a jinja file, a `tokenizer_config.json`, or a folder of either.

        In a folder `chat_template.jinja` (with `chat_templates/*.jinja`) wins over `tokenizer_config.json`, as in
        transformers. A jinja file takes its special tokens from a `tokenizer_config.json` beside it, if there is one.
        """
        if str(spec) in BUILT_IN:
            template = ChatTemplate(_read_text(BUILT_IN_FOLDER / f"{spec}.jinja"), str(spec))
            return template._checked()
        path = Path(spec)
        if path.is_dir():
            found = from_folder(path)
            if found is None:
                raise UserError(
                    "no chat template in this folder",
                    where=str(path),
                    found="neither chat_template.jinja nor a chat_template in tokenizer_config.json",
                    expected="one of the two",
                    fix="choose a template by name: --template alpaca (no new tokens) or --template chatml",
                )
            return found
        if not path.is_file():
            raise UserError(
                "no such chat template",
                where="--template",
                found=str(spec),
                expected=f"{', '.join(BUILT_IN)}, a jinja file, a tokenizer_config.json or a folder holding either",
                fix="--template alpaca",
            )
        if path.suffix == ".json":
            config = read_json(path)
            sources = _named_sources(config.get("chat_template"), path)
            if sources is None:
                raise UserError(
                    "no chat template in this file",
                    where=str(path),
                    found=f"the keys {', '.join(sorted(config))}",
                    expected="a key chat_template",
                    fix="choose a template by name, such as --template alpaca, or name a jinja file",
                )
        else:
            sources = {"default": _read_text(path)}
            beside = path.parent / "tokenizer_config.json"
            config = read_json(beside) if beside.is_file() else {}
        return _assemble(sources, config, path)

    def with_tokens(self, variables: Mapping[str, str], special_tokens: frozenset[str]) -> ChatTemplate:
        """The same template with these special tokens under their names, and all of `special_tokens` known to it."""
        return dataclasses.replace(
            self, variables=tuple(sorted(variables.items())), special_tokens=self.special_tokens | special_tokens
        )

    def with_bos(self) -> ChatTemplate:
        """The same template writing `bos_token` first, so that the saved template does so at inference too."""
        return self.with_preamble("{{ bos_token }}")

    def with_preamble(self, jinja: str) -> ChatTemplate:
        """The same template with jinja text put before its own, in every alternative."""

        def prefixed(source: str) -> str:
            # Blanks before a block are dropped at the start of a line, which this no longer is.
            return jinja + re.sub(r"\A[ \t]+(?=\{[%#])", "", source)

        alternatives = tuple((name, prefixed(source)) for name, source in self.alternatives)
        return dataclasses.replace(self, source=prefixed(self.source), alternatives=alternatives)._checked()

    def alternative(self, name: str) -> ChatTemplate:
        """The named alternative as a template of its own."""
        return dataclasses.replace(
            self, source=dict(self.alternatives)[name], alternatives=(), name=f"{self.name} ({name})"
        )

    def variable(self, name: str) -> str | None:
        """A special token by its name, such as `eos_token`."""
        return dict(self.variables).get(name)

    def chosen_source(self, has_tools: bool) -> str:
        """The jinja text for a conversation: `tool_use` if there are tools and it exists, as in transformers."""
        return dict(self.alternatives).get("tool_use", self.source) if has_tools else self.source

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text, equal to transformers' `apply_chat_template(..., tokenize=False)`.

        `arguments` are further values for the template, such as `documents` or `enable_thinking`.
        Raises `UserError` with the template's line if the template refuses the conversation or is broken.
        """
        return self.render_fields([message_fields(m) for m in messages], tools, add_generation_prompt, arguments)

    def render_fields(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """As `render`, for messages that are dictionaries made by `message_fields`."""
        context: dict[str, Any] = {"strftime_now": self.date.strftime, "documents": None, **dict(self.variables)}
        if arguments:
            context.update(plain_data(arguments))
        context["messages"] = messages
        context["tools"] = plain_data(list(tools)) if tools else None
        context["add_generation_prompt"] = add_generation_prompt
        try:
            return compiled(self.chosen_source(bool(tools))).render(context)
        except Exception as error:
            # A template is someone else's program: whatever it raises is about it or about the data given to it.
            raise self._refusal(error) from error

    def _checked(self) -> ChatTemplate:
        for source in (self.source, *(source for _, source in self.alternatives)):
            try:
                compiled(source)
            except jinja2.TemplateSyntaxError as error:
                raise UserError(
                    "the chat template is not valid jinja",
                    where=f"{self.name}, line {error.lineno}",
                    found=error.message or "a syntax error",
                    expected="a jinja template",
                    fix="correct that line, or choose a template by name, such as --template alpaca",
                ) from error
        return self

    def _refusal(self, error: Exception) -> UserError:
        line = _template_line(error)
        return UserError(
            "the chat template cannot render this conversation",
            where=self.name if line is None else f"{self.name}, line {line}",
            found=f"it says: {error}",
            expected="a conversation that this template accepts",
            fix="change the conversation (its roles and their order), or choose another --template",
        )


def from_folder(folder: Path) -> ChatTemplate | None:
    """The chat template a model or tokenizer folder holds, or None if it holds none."""
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    sources = {p.stem: _read_text(p) for p in sorted((folder / "chat_templates").glob("*.jinja"))}
    single = folder / "chat_template.jinja"
    if single.is_file():
        sources["default"] = _read_text(single)
    if sources:
        return _assemble(sources, config, single if "default" in sources else folder / "chat_templates")
    in_config = _named_sources(config.get("chat_template"), config_path)
    return None if in_config is None else _assemble(in_config, config, config_path)


def token_variables(config: Mapping[str, Any]) -> dict[str, str]:
    """The named special tokens of a tokenizer_config.json or special_tokens_map.json, as text."""
    values = {name: config.get(name) for name in TOKEN_VARIABLES}
    texts = {name: value["content"] if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def declared_special_tokens(config: Mapping[str, Any]) -> frozenset[str]:
    """Every special token a tokenizer_config.json or special_tokens_map.json names, in old and new layouts."""
    found = list(token_variables(config).values())
    found += [t["content"] for t in config.get("added_tokens_decoder", {}).values() if t.get("special")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key) or []
        for token in more.values() if isinstance(more, Mapping) else more:
            found.append(token["content"] if isinstance(token, Mapping) else token)
    return frozenset(found)


def message_fields(message: Message) -> dict[str, Any]:
    """A message as the dictionary a template sees: absent values left out, reasoning under all its names."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.extra:
        fields.update(plain_data({key: value for key, value in message.extra.items() if value is not None}))
        reasoning = reasoning_of(fields)
        if reasoning is not None:
            fields = {"thinking": reasoning, **fields, "reasoning_content": reasoning}
    return fields


def reasoning_of(fields: Mapping[str, Any]) -> Any | None:
    """What a message thought before it spoke, under whichever of the usual names."""
    return next((fields[name] for name in REASONING_FIELDS if fields.get(name) is not None), None)


def plain_data(value: Any) -> Any:
    """The value made of dictionaries, lists and scalars only, which is all a template may see."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {plain_data(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and scalars of numpy, which table readers leave in records
        return plain_data(value.tolist())
    return str(value)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object."""
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(
            "not a JSON file",
            where=f"{path}, line {error.lineno}",
            found=error.msg,
            expected="one JSON object",
            fix="correct that line, or fetch the file again",
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            "not the expected JSON file",
            where=str(path),
            found=f"a {type(value).__name__}",
            expected="one JSON object",
            fix="name a tokenizer_config.json or a folder that holds one",
        )
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            "not a UTF-8 text file",
            where=f"{path}, byte {error.start}",
            found=f"0x{error.object[error.start]:02x}",
            expected="text in UTF-8",
            fix=f"iconv -t UTF-8 -f THE_ENCODING_IT_HAS {typed(path)}",
        ) from error


def _named_sources(value: Any, path: Path) -> dict[str, str] | None:
    """The jinja texts of a config's `chat_template`, which is one text or a list of named ones."""
    if value is None:
        return None
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list) and all(isinstance(v, Mapping) and {"name", "template"} <= v.keys() for v in value):
        return {v["name"]: v["template"] for v in value}
    raise UserError(
        "chat_template has an unknown shape",
        where=str(path),
        found=f"a {type(value).__name__}",
        expected="a text, or a list of objects with name and template",
        fix="name a jinja file instead: --template FILE.jinja",
    )


def _assemble(sources: Mapping[str, str], config: Mapping[str, Any], path: Path) -> ChatTemplate:
    if "default" not in sources:
        raise UserError(
            "several chat templates and none is called default",
            where=str(path),
            found=", ".join(sorted(sources)),
            expected="one called default",
            fix="put the one to use into a file of its own: --template FILE.jinja",
        )
    return ChatTemplate(
        source=sources["default"],
        name=str(path),
        variables=tuple(sorted(token_variables(config).items())),
        special_tokens=declared_special_tokens(config),
        alternatives=tuple((name, source) for name, source in sources.items() if name != "default"),
    )._checked()


def _template_line(error: BaseException) -> int | None:
    """The line of the template that was running when the error rose, if it rose there."""
    line, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    return line
