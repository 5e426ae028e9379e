"""Coroutines on an event loop whose clock jumps (benchmarks.virtual_time): hours pass in no time, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from benchmarks.virtual_time import VirtualLoop

T = TypeVar("T")


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on a VirtualLoop. Raises AssertionError if the scenario leaves a task behind."""

    async def watched() -> T:
        result = await scenario
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(watched())
