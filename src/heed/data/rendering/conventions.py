"""How a chat template wants to be told things, found out by rendering small conversations with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from heed.data.rendering.render import ChatTemplate, plain_data
from heed.errors import UserError

OPEN, CLOSE = "\ue000", "\ue001"
"""private-use characters around what a probe says, which no template writes of its own accord"""
TOOL_NAME, CALL_ID = "probe_tool", "a1b2c3d4e"  # Mistral wants nine letters and digits

SYSTEM = {"role": "system", "content": "System."}
USER = {"role": "user", "content": "Question"}
TOOL_RESULT = {"role": "tool", "content": "Result", "name": TOOL_NAME, "tool_call_id": CALL_ID}
TOOL = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "Probe.",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "description": "Key."}},
            "required": ["key"],
        },
    },
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "id": CALL_ID, "function": {"name": TOOL_NAME, "arguments": {"key": OPEN}}}],
}


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How tool calls have to be written for a template to show them."""

    is_content_none: bool = False
    """whether a message of tool calls and no words has no content at all, as in OpenAI's own records"""
    are_arguments_text: bool = False
    """whether arguments are JSON text and not an object"""

    def applied(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The message in this style."""
        changed = dict(fields)
        if self.is_content_none and not fields["content"].strip():
            changed["content"] = None
        if self.are_arguments_text:
            changed["tool_calls"] = [_with_text_arguments(call) for call in fields["tool_calls"]]
        return changed


def adapted(
    template: ChatTemplate, fields: Sequence[dict[str, Any]], has_tools: bool, arguments: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Messages as this template shows them: `developer` as `system`, tool calls in the style it knows."""
    if not any(each["role"] == "developer" or each.get("tool_calls") for each in fields):
        return list(fields)
    values = as_key(arguments)
    changed = []
    for each in fields:
        if each["role"] == "developer" and developer_is_system(template):
            each = {**each, "role": "system"}
        style = call_style(template, has_tools, values) if each.get("tool_calls") else None
        changed.append(each if style is None else style.applied(each))
    return changed


def as_key(arguments: Mapping[str, Any] | None) -> str:
    """Template arguments as text, by which what is found out with them can be kept."""
    return json.dumps(plain_data(arguments), sort_keys=True) if arguments else "{}"


@lru_cache(maxsize=256)
def developer_is_system(template: ChatTemplate) -> bool:
    """Whether the template loses or refuses the newer role `developer` and shows `system`."""

    def shows(role: str) -> bool:
        said = {"role": role, "content": OPEN}
        return OPEN in first_that_renders(template, ([said, USER], [said, USER, {**USER, "role": "assistant"}]), (), {})

    return not shows("developer") and shows("system")


@lru_cache(maxsize=256)
def call_style(template: ChatTemplate, has_tools: bool, arguments: str) -> CallStyle | None:
    """The first style in which the template shows a tool call's name and arguments; None if it shows none.

    Args:
        arguments: for the template, as `as_key` writes them.
    """
    tools, values = (TOOL,) if has_tools else (), json.loads(arguments)
    for style in (CallStyle(), CallStyle(True, False), CallStyle(False, True), CallStyle(True, True)):
        text = first_that_renders(template, ([USER, style.applied(CALL)],), tools, values)
        if TOOL_NAME in text and OPEN in text:
            return style
    return None


def first_that_renders(
    template: ChatTemplate,
    conversations: Sequence[list[dict[str, Any]]],
    tools: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
    add_generation_prompt: bool = False,
) -> str:
    """The render of the first conversation the template accepts; empty if it refuses them all."""
    for messages in conversations:
        try:
            return template.render_fields(messages, tools, add_generation_prompt, values)
        except UserError:
            continue
    return ""


def _with_text_arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function", call)
    said = {**function, "arguments": json.dumps(function.get("arguments") or {}, ensure_ascii=False)}
    return {**call, "function": said} if "function" in call else said
