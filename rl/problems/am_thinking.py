"""AM-Thinking-v1-Distilled: reasoning traces as chat messages for supervised fine-tuning.

A published row is `conversations: [{from: human | assistant, value, info?}]` with fields beside it that differ from
subset to subset (system prompts, sources, scores); only roles and texts are used. The assistant writes
`<think>...</think><answer>...</answer>`; a trace that does not is no example of anything, and is rejected with the
reason. Rows that already are `messages: [{role, content}]` are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl.problems.schema import RowError

REPO = "a-m-team/AM-Thinking-v1-Distilled"
REVISION = "3697c1829816a2b8d4d25995ed6d5d27ffb49b30"

ROLES = {"human": "user", "user": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
COLUMNS = {"conversations": ("from", "value"), "messages": ("role", "content")}

Messages = list[dict[str, str]]


class Malformed(RowError):
    """A row whose columns are as published but whose trace is no use: always left out and counted."""


def messages_of(raw: Mapping[str, Any], where: str = "", traces: bool = True) -> Messages:
    """The chat of a row: user and assistant in turn (a system message is kept only without `traces`).

    With `traces` every assistant turn that thinks must be whole, and the last one must think and answer; text after
    </think> that lacks its <answer> tags gets them. Raises RowError for columns, Malformed for traces.
    """
    column = next((name for name in COLUMNS if raw.get(name) is not None), None)
    if column is None:
        found = ", ".join(raw) or "none"
        raise RowError(where, "conversations", f"is missing, and so is messages (columns found: {found})")
    turns = raw[column]
    if not isinstance(turns, list) or not turns:
        raise RowError(where, column, f"should hold a list of turns, not {str(turns)[:60]!r}")
    messages = [_message(turn, column, where) for turn in turns]
    if traces:
        messages = [message for message in messages if message["role"] != "system"]
    _check_turns(messages, column, where)
    if traces:
        last = len(messages) - 1
        for index in range(1, len(messages), 2):
            messages[index]["content"] = _trace(messages[index]["content"], index == last, column, where)
    return messages


def _message(turn: Any, column: str, where: str) -> dict[str, str]:
    speaker, text = COLUMNS[column]
    if not isinstance(turn, dict) or not isinstance(turn.get(text), str):
        raise RowError(where, column, f"should hold turns of {{{speaker}, {text}}}, not {str(turn)[:60]!r}")
    role = ROLES.get(turn.get(speaker))
    if role is None:
        raise RowError(where, column, f"names the role {str(turn.get(speaker))[:40]!r}: known are {', '.join(ROLES)}")
    return {"role": role, "content": turn[text]}


def _check_turns(messages: Messages, column: str, where: str) -> None:
    chat = messages[1:] if messages and messages[0]["role"] == "system" else messages
    roles = [message["role"] for message in chat]
    if not roles or roles[-1] != "assistant":
        raise Malformed(where, column, "does not end with the assistant")
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise Malformed(where, column, f"does not take turns: {', '.join(roles[:6])}")
    if not all(message["content"].strip() for message in chat[::2]):
        raise Malformed(where, column, "has an empty question")


def _trace(text: str, last: bool, column: str, where: str) -> str:
    """The turn as `<think>..</think><answer>..</answer>`; earlier turns may do without thinking."""
    thought, closed, rest = text.partition("</think>")
    if not closed:
        if not last and "<think>" not in text:
            return text
        raise Malformed(where, column, "has a trace without </think>")
    if not thought.lstrip().startswith("<think>"):
        raise Malformed(where, column, "has a trace that does not begin with <think>")
    if "<think>" in rest or "</think>" in rest:
        raise Malformed(where, column, "has a trace that thinks twice")
    before, opened, inner = rest.partition("<answer>")
    answer, ended, after = inner.partition("</answer>") if opened else (rest, "", "")
    if opened and not ended:
        raise Malformed(where, column, "has a trace whose <answer> does not end")
    if not answer.strip():
        raise Malformed(where, column, "has a trace with an empty answer")
    if not opened:
        return f"{thought}</think><answer>{rest}</answer>"
    if before.strip() or after.strip():
        raise Malformed(where, column, "has a trace with text outside of its tags")
    return text
