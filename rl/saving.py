"""Checkpoints written beside the steps: what a step has come to is copied, training goes on, the copy is written.

    seconds = await saver.take(step, books)   # all that training waits for; `books` are taken at the same moment
    saver.write()                             # beside what comes next; sealed once every learner has written its part
    told = saver.told()                       # after each step: a write that failed raises here, or
    await saver.finish()                      # where a checkpoint must be complete before anything else is done

One write at a time: `take` waits for the one before. A checkpoint exists once it is sealed (rl.checkpoint), which this
process alone does; whatever dies before leaves a folder aside that nobody loads.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.learner import WRITING
from rl.checkpoint import RunFolder, write_bytes
from rl.dispatcher import ServiceFailure
from rl.publication import within

Books = Callable[[], tuple[Mapping[str, Any], Mapping[str, bytes]]]
"""() -> (what goes into trainer.json, other files of the checkpoint by name), both of this moment."""


@dataclass(frozen=True)
class Taken:
    """A checkpoint of which the learners hold their part in memory, and this the rest."""

    step: int
    aside: Path
    state: dict[str, Any]
    files: dict[str, bytes]


class Saver:
    """A run's checkpoints. `sealed(folder, state)` is told of each, in a thread of its own."""

    def __init__(self, folder: RunFolder, learners: Sequence[Any], timeout_s: float, keep: int,
                 sealed: Callable[[Path, Mapping[str, Any]], None] = lambda folder, state: None):
        self._folder, self._learners, self._timeout_s, self._keep = folder, learners, timeout_s, keep
        self._names = [f"learner-{i}" for i in range(len(learners))]
        self._sealed = sealed
        self._taken: Taken | None = None
        self._writing: asyncio.Task[float] | None = None
        self._seconds: float | None = None

    async def take(self, step: int, books: Books) -> float:
        """Copy the learners' state to their hosts' memory, and the books; returns the seconds that it took, with the
        wait for the write before. A collective of all learners. Raises ServiceFailure, and as `finish`."""
        started = time.perf_counter()
        await self.finish()
        state, files = books()
        state, files = copy.deepcopy(dict(state)), dict(files)
        try:
            aside = self._folder.new_checkpoint(step)
        except OSError as error:
            raise _unwritten(step, error) from error
        calls = [learner.snapshot.remote() for learner in self._learners]
        await within(calls, self._names, self._timeout_s, "copy its state for a checkpoint")
        self._taken = Taken(step, aside, state, files)
        return time.perf_counter() - started

    def write(self) -> None:
        """Begin to write what was taken."""
        if self._taken is None:
            raise RuntimeError("nothing was taken that could be written")
        self._writing, self._taken = asyncio.create_task(self._write(self._taken)), None

    def told(self) -> dict[str, float]:
        """The metrics of a write that ended since this was last asked: checkpoint/write_s. Raises as `finish`."""
        if self._writing is not None and self._writing.done():
            self._end(self._writing)
        seconds, self._seconds = self._seconds, None
        return {} if seconds is None else {"checkpoint/write_s": seconds}

    async def finish(self) -> None:
        """Until nothing is being written. Raises ServiceFailure where a checkpoint could not be, as ActorsLost where a
        learner did not live to write its part."""
        if self._writing is not None:
            await asyncio.wait([self._writing])  # who gives up waiting leaves the write alone
            self._end(self._writing)

    async def abandon(self) -> str:
        """After the learners were restarted: what was being written is sealed already, or never will be. Returns why
        not, "" otherwise."""
        self._taken, reason = None, ""
        try:
            await self.finish()
        except ServiceFailure as failure:
            reason = str(failure)
        self._folder.drop_aside()
        return reason

    async def close(self, note: Callable[[str], None]) -> None:
        """At the end of a run, however it comes: what is being written is finished. A failure of that is noted, as the
        run has ended by something else then."""
        if self._writing is not None and not self._writing.done():
            note("finishing the checkpoint that is being written (ctrl-C: leave it)")
        try:
            await self.finish()
        except ServiceFailure as failure:
            note(str(failure))

    def _end(self, writing: asyncio.Task[float]) -> None:
        self._writing = None
        self._seconds = writing.result()

    async def _write(self, taken: Taken) -> float:
        """Seconds until it was sealed."""
        started = time.perf_counter()
        calls = [learner.write.options(concurrency_group=WRITING).remote(str(taken.aside))
                 for learner in self._learners]
        what = f"write its part of the checkpoint of step {taken.step}"
        try:
            await within(calls, self._names, self._timeout_s, what)
            await asyncio.to_thread(self._seal, taken)
        except ServiceFailure as failure:
            cause = getattr(failure.__cause__, "cause", failure.__cause__)
            if not isinstance(cause, OSError):
                raise
            self._folder.drop_aside()  # the run ends by this, and should leave room for its summary
            raise _unwritten(taken.step, cause) from failure
        except OSError as error:
            self._folder.drop_aside()
            raise _unwritten(taken.step, error) from error
        return time.perf_counter() - started

    def _seal(self, taken: Taken) -> None:
        for name, content in taken.files.items():
            write_bytes(taken.aside / name, content)
        self._sealed(self._folder.commit(taken.aside, taken.step, taken.state, self._keep), taken.state)


def _unwritten(step: int, error: BaseException) -> ServiceFailure:
    reason = " ".join(str(error).split())[-300:]
    return ServiceFailure(f"the checkpoint of step {step} cannot be written: {reason}")
