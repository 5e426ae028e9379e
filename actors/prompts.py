"""The texts around a question: how a plan is asked for, how it is given along, how it is read from a reply.

A user's text and a model's plan are data: what looks like a chat token or one of our tags in them is broken with a
space before it reaches a prompt, so it can neither end a turn nor close a tag.
"""

from __future__ import annotations

import re

from actors.messages import Plan

_TAGS = "think|answer|plan|question|ideas|tool_call|tool_response|start_of_turn|end_of_turn|bos|eos|pad|unk|s"
_TAG = re.compile(rf"<(?=[|｜]|/?(?:{_TAGS})\b[^<>]*>)|\[(?=/?(?:INST|SYS)\])", re.IGNORECASE)
_STEP = re.compile(r"(?:^|(?<=[.!?;])\s+|\n+)\s*(?:\d{1,2}[.)]\s+|[-*•]\s+|[Ss]tep\s+\d{1,2}:\s*)?")
_ANSWER = re.compile(r"<answer>.*?(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{[^{}]*\}")

PLAN_REQUEST = "Write a short plan in <plan></plan>. Do not give the answer."
MAX_PLAN_CHARS = 4000


def as_data(text: str) -> str:
    """The text with every chat token (`<|...`, `[INST]`) and tag (`<think>`, `</answer>`, ...) broken by a space.

    A space and not a zero-width character, because some tokenizers drop those and the tag would come back.
    Applying it twice changes nothing more.
    """
    return _TAG.sub(lambda match: match.group() + " ", text)


def with_plan(question: str, plan: str) -> str:
    """The user's text for a solver that is given a plan."""
    return f"{as_data(question)}\nPlan: {as_data(plan)}"


def plan_request(question: str) -> str:
    """The user's text that asks for a plan instead of an answer."""
    return f"{as_data(question)}\n{PLAN_REQUEST}"


def parse_plan(text: str) -> Plan:
    """The plan in a model's reply: the last <plan>, an unclosed one to the end, or else the whole reply.

    Thinking is dropped (thinking that never ends is no plan), and so is anything that states an answer: <answer>
    and boxed text. An empty Plan means that there was none.
    """
    if "</think>" in text:
        text = text.rsplit("</think>", 1)[1]
    elif "<think>" in text:
        text = text.split("<think>", 1)[0]
    if "<plan>" in text:
        text = text.rsplit("<plan>", 1)[1]
    text = text.split("</plan>", 1)[0]
    text = _BOXED.sub("", _ANSWER.sub("", text)).strip()[:MAX_PLAN_CHARS]
    return Plan(text, _steps(text))


def _steps(text: str) -> tuple[str, ...]:
    """One step a line where there are lines, else one a sentence; list marks are dropped."""
    return tuple(step.strip() for step in _STEP.split(text) if step and step.strip())
