"""Scenes for the scaffold's tests: scripted engines, a verifier, and a run to its end in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import virtual_time

from actors.checkers.compare import by_spelling
from actors.engine.scripted import Script, ScriptedEngine
from actors.messages import Comparison
from deployments.effort import ScaffoldSettings
from deployments.events import Event, Selected
from deployments.scaffold import Scaffold

QUESTION = "Ann has 12 pens, gets 30, then loses 5. How many pens does Ann have now?"
ASKED = ({"role": "user", "content": QUESTION},)
SEED = 100
Reply = str | Script | Exception


class Spelling:
    """A verifier that compares by spelling, after `delay_s`, or fails."""

    def __init__(self, delay_s: float = 0.0, failure: Exception | None = None) -> None:
        self.delay_s, self.failure = delay_s, failure
        self.asked: list[int] = []

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
        assert question == QUESTION
        self.asked.append(len(texts))
        await asyncio.sleep(self.delay_s)
        if self.failure:
            raise self.failure
        return by_spelling(texts)


def said(answer: object, delay_s: float = 1.0) -> Script:
    """A candidate that thinks and answers within `delay_s`."""
    return Script(pieces=("<think>so", "</think>", f"<answer>{answer}</answer>"), delay_s=delay_s / 3)


def solver(*replies: Reply) -> ScriptedEngine:
    """Candidate i, known by its seed, replies with replies[i]."""
    return ScriptedEngine(lambda request: replies[request.seed - SEED], name="solver")


async def collect(scaffold: Scaffold, messages: Sequence[dict] = ASKED, **settings: Any) -> list[Event]:
    chosen = ScaffoldSettings(**{"seed": SEED, "plan": False} | settings)
    async with aclosing(scaffold.run(messages, chosen)) as events:
        return [event async for event in events]


def play(scaffold: Scaffold, messages: Sequence[dict] = ASKED, **settings: Any) -> list[Event]:
    return virtual_time.run(collect(scaffold, messages, **settings))


def of(events: Sequence[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def winner(events: Sequence[Event]) -> Selected:
    assert isinstance(events[-1], Selected) and len(of(events, Selected)) == 1
    return events[-1]
