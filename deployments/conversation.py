"""A conversation as the scaffold takes it: the question that is to be answered, and what surrounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.engine.chat import BadRequest
from actors.prompts import as_data


def split_conversation(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[tuple[Mapping[str, Any], ...], str, tuple[Mapping[str, Any], ...]]:
    """A conversation before, in and after its last user message; what users wrote is data. Raises BadRequest."""
    for message in messages:
        if not isinstance(message.get("content"), str):
            raise BadRequest("every message needs a text as its content")
    asked = [place for place, message in enumerate(messages) if message.get("role") == "user"]
    if not asked:
        raise BadRequest("the messages hold no user's question")
    safe = tuple(
        {**message, "content": as_data(message["content"])} if message.get("role") == "user" else message
        for message in messages
    )
    return safe[: asked[-1]], messages[asked[-1]]["content"], safe[asked[-1] + 1 :]
