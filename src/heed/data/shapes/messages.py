"""Messages as data sets write them (OpenAI, ShareGPT) into ours."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from heed.data.shapes.tidy import literal
from heed.errors import UserError
from heed.types import Message, Origin

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool_calls": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "ipython": "tool",
}
"""how data sets name the roles; any other is refused, for its message would silently be context"""

CALLS = ("function_call", "tool_call", "tool_calls")
"""roles, and the older field, whose content is a call of a tool"""

EXAMPLE = '{"role": "user", "content": "..."}'
READ_HERE = ("role", "from", "content", "value", "train", "weight", "loss_weight", "tool_calls", "function_call")
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
    role = _role(spoken_as, origin)
    body = raw["content"] if "content" in raw else raw.get("value")
    calls = [call for key in ("tool_calls", "function_call") if raw.get(key) for call in tool_calls(raw[key], origin)]
    if spoken_as.lower() in CALLS:
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


def _role(spoken_as: str, origin: Origin) -> str:
    """The role by its name here; one that nobody knows is no context, and a typing error in `assistant` no question."""
    role = ROLES.get(spoken_as.strip().lower())
    if role is not None:
        return role
    near = difflib.get_close_matches(spoken_as.lower(), ROLES, n=1, cutoff=0.8)
    known = f"a role such as {', '.join(dict.fromkeys(ROLES.values()))}"
    raise refuse(origin, "unknown role", spoken_as, known, near[0] if near else "system, user, assistant or tool there")


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
    if isinstance(part, Mapping) and part.get("type", "text") in TEXT_PARTS:
        said = [part[key] for key in ("text", "value", "content") if isinstance(part.get(key), str)]
        if len(said) == 1:
            return str(said[0])
    raise refuse(
        origin, "content has a part that is not text", part, "text parts only", '{"type": "text", "text": "..."}'
    )


TEXT_PARTS = ("text", "input_text", "output_text")
"""what parts of a content are called that are text"""


def _weight(raw: Mapping[str, Any], role: str, origin: Origin, default: float) -> float:
    train = raw.get("train")
    weight = raw["weight"] if raw.get("weight") is not None else raw.get("loss_weight")
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
            {key: raw[key] for key in ("train", "weight", "loss_weight") if key in raw},
            "only assistant messages are trained",
            '"train": false (or remove the other keys)',
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
    """The value itself, or what it says if it is text of JSON or of a Python literal, as cells of tables hold lists."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        listed = literal(value) if value.lstrip().startswith(("[", "{", "(")) else None
        if isinstance(listed, list | dict | tuple):
            return list(listed) if isinstance(listed, tuple) else listed
        raise refuse(origin, f"the text of '{name}' is broken JSON", value, str(error), "valid JSON there") from error


def refuse(origin: Origin, problem: str, found: Any, expected: str, example: str) -> UserError:
    """A mistake in one record, with what to write there instead."""
    shown = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
    cut = shown if len(shown) <= 120 else f"{shown[:117]}..."
    return UserError(problem, where=str(origin), found=cut, expected=expected, fix=f"in that record write {example}")
