"""Messages as data sets write them (OpenAI, ShareGPT) into ours."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from heed.errors import UserError
from heed.types import Message, Origin

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""how data sets name the roles; a role that is not here is kept as it is, because a template may know it"""

EXAMPLE = '{"role": "user", "content": "..."}'
READ_HERE = ("role", "from", "content", "value", "train", "weight", "tool_calls")
"""keys of a message with a meaning to heed; all others go to the chat template in `extra`"""


def to_messages(value: Any, origin: Origin, *, text_role: str, answer_weight: float = 1.0) -> tuple[Message, ...]:
    """One message, a list of messages, or plain text said by `text_role`.

    `answer_weight` is the loss weight of assistant messages that name none: 0 in a prompt, 1 elsewhere.
    """
    if value is None or isinstance(value, str):
        return (Message(text_role, value or "", answer_weight if text_role == "assistant" else 1.0),)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence):
        raise refuse(origin, "messages are not a list", value, "text, or a list of messages", '[{"role": "user", ...}]')
    return tuple(to_message(item, origin, answer_weight) for item in value)


def to_message(raw: Any, origin: Origin, answer_weight: float = 1.0) -> Message:
    """One OpenAI or ShareGPT message; text is kept exactly as it is."""
    if not isinstance(raw, Mapping):
        raise refuse(
            origin,
            "a message is not an object",
            raw,
            "an object with role and content",
            '{"role": "user", "content": ...}',
        )
    spoken_as = _role_name(raw, origin)
    role = ROLES.get(spoken_as.lower(), spoken_as)
    _refuse_misspelt(role, origin)
    body = raw["content"] if "content" in raw else raw.get("value")
    calls = tool_calls(raw["tool_calls"], origin) if raw.get("tool_calls") else []
    if spoken_as.lower() == "function_call":
        calls, body = tool_calls(body, origin), ""
    if body is None and "content" not in raw and not calls:
        raise refuse(origin, "a message has no content", raw, "a field 'content' (or 'value')", '"content": "..."')
    extra = {key: item for key, item in raw.items() if key not in READ_HERE and item is not None}
    if calls:
        extra["tool_calls"] = calls
    weight = _weight(raw, role, origin, answer_weight if role == "assistant" else 1.0)
    return Message(role, _text(body, origin), weight, extra)


def _role_name(raw: Mapping[str, Any], origin: Origin) -> str:
    role = raw["role"] if raw.get("role") is not None else raw.get("from")
    if not isinstance(role, str) or not role:
        raise refuse(origin, "a message has no role", raw, "a field 'role' (or 'from')", '"role": "user"')
    return role


def _refuse_misspelt(role: str, origin: Origin) -> None:
    """A typing error in `assistant` would quietly take the answer out of training."""
    if role in ROLES.values():
        return
    near = difflib.get_close_matches(role.lower(), ROLES, n=1, cutoff=0.8)
    if near:
        raise refuse(origin, "unknown role", role, f"a role such as {', '.join(sorted(set(ROLES.values())))}", near[0])


def _text(body: Any, origin: Origin) -> str:
    """Text, or the text parts of a list of parts joined without anything between them."""
    if body is None:
        return ""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "".join(_part(part, origin) for part in body)
    raise refuse(origin, "content is not text", body, "text, or a list of text parts", '"content": "..."')


def _part(part: Any, origin: Origin) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise refuse(
        origin, "content has a part that is not text", part, "text parts only", '{"type": "text", "text": "..."}'
    )


def _weight(raw: Mapping[str, Any], role: str, origin: Origin, default: float) -> float:
    train, weight = raw.get("train"), raw.get("weight")
    if train is not None and not isinstance(train, bool):
        raise refuse(origin, "'train' is neither true nor false", train, "true or false", '"train": false')
    if weight is not None:
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight) or weight < 0:
            raise refuse(origin, "a message's weight cannot be used", weight, "a number of at least 0", '"weight": 1.0')
    if role != "assistant" and (train or weight) and train is not False:
        raise refuse(
            origin,
            f"a {role} message is marked for training",
            {key: raw[key] for key in ("train", "weight") if key in raw},
            "only assistant messages are trained",
            '"train": false (or remove both keys)',
        )
    if train is False:
        return 0.0
    if weight is not None:
        return float(weight)
    return 1.0 if train else default


# ---- tools


def tool_calls(value: Any, origin: Origin) -> list[Mapping[str, Any]]:
    """Tool calls as chat templates read them: {type, function: {name, arguments}}, arguments being an object."""
    calls = from_json(value, origin, "tool_calls")
    return [_tool_call(call, origin) for call in (calls if isinstance(calls, list) else [calls])]


def _tool_call(raw: Any, origin: Origin) -> Mapping[str, Any]:
    function = raw.get("function", raw) if isinstance(raw, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        example = '{"name": "...", "arguments": {...}}'
        raise refuse(origin, "a tool call has no function name", raw, "a name and arguments", example)
    arguments = function.get("arguments")
    # OpenAI writes a call without arguments as an empty string.
    arguments = {} if arguments is None or arguments == "" else from_json(arguments, origin, "arguments")
    if function is raw:
        return {"type": "function", "function": {"name": raw["name"], "arguments": arguments}}
    return {"type": "function", **raw, "function": {**function, "arguments": arguments}}


def to_tools(value: Any, origin: Origin) -> tuple[Mapping[str, Any], ...]:
    """The tools a conversation may call: a list, or JSON text of one, of objects or of JSON texts of them."""
    if value is None or value == "":
        return ()
    tools = from_json(value, origin, "tools")
    if not isinstance(tools, list):
        raise refuse(origin, "'tools' is not a list", tools, "a list of tools", '"tools": [...]')
    return tuple(_tool(from_json(tool, origin, "tools"), origin) for tool in tools)


def _tool(raw: Any, origin: Origin) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        example = '{"type": "function", "function": {...}}'
        raise refuse(origin, "a tool is not an object", raw, "an object for each tool", example)
    if "name" in raw and "function" not in raw and "type" not in raw:
        return {"type": "function", "function": raw}
    return raw


def from_json(value: Any, origin: Origin, name: str) -> Any:
    """The value itself, or what it says if it is JSON text, as table cells have to write lists and objects."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise refuse(origin, f"the text of '{name}' is broken JSON", value, str(error), "valid JSON there") from error


def refuse(origin: Origin, problem: str, found: Any, expected: str, example: str) -> UserError:
    """A mistake in one record, with what to write there instead."""
    shown = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
    cut = shown if len(shown) <= 120 else f"{shown[:117]}..."
    return UserError(problem, where=str(origin), found=cut, expected=expected, fix=f"in that record write {example}")
