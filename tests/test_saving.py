"""Checkpoints written beside the steps: what is in them, when they are there, what a failure or a death leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rl.checkpoint import RunFolder
from rl.dispatcher import ActorsLost, ServiceFailure
from rl.saving import Saver
from rl.session import Interrupted, Session


class FakeLearner:
    """A rank whose weights are a number. `gate` is what its writing waits for, `failure` what it ends with."""

    def __init__(self) -> None:
        self.weights, self.held = 0, None
        self.gate, self.failure = asyncio.Event(), None
        self.gate.set()
        self.snapshot = SimpleNamespace(remote=self._snapshot)
        self.write = SimpleNamespace(options=self._options)

    async def _snapshot(self) -> None:
        self.held = self.weights

    def _options(self, concurrency_group: str) -> Any:
        assert concurrency_group == "writing", "else it would wait behind the next step"
        return SimpleNamespace(remote=self._write)

    async def _write(self, folder: str) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        (Path(folder) / "weights").write_text(str(self.held))


class Scene:
    """A run of one learner, each of whose steps adds one to its weights and to its books."""

    def __init__(self, path: Path, timeout_s: float = 5, keep: int = 10):
        self.folder, self.learner, self.sealed = RunFolder(path, resumed=False), FakeLearner(), []
        self.saver = Saver(self.folder, [self.learner], timeout_s, keep, lambda path, state: self.sealed.append(path))
        self.state: dict[str, Any] = {"curve": []}

    def step(self) -> int:
        self.learner.weights += 1
        self.state["curve"].append(self.learner.weights)
        return self.learner.weights

    def books(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        return self.state, {"in_flight.pkl": str(len(self.state["curve"])).encode()}

    async def save(self) -> float:
        seconds = await self.saver.take(self.learner.weights, self.books)
        self.saver.write()
        return seconds

    async def ended(self) -> None:
        """Until the write has ended, without hearing how."""
        while not self.saver._writing.done():
            await asyncio.sleep(0.001)

    def steps(self) -> list[int]:
        return [step for step, _ in self.folder.checkpoints()]

    def aside(self) -> list[Path]:
        return list((self.folder.path / "checkpoints").glob(".step_*.tmp"))


@pytest.fixture
def scene(tmp_path):
    """scene(what, ...): run the coroutine function on a Scene of the options."""

    def play(what: Any, **options: Any) -> Any:
        async def body() -> Any:
            return await what(Scene(tmp_path, **options))

        return asyncio.run(body())

    return play


def test_steps_go_on_while_a_checkpoint_is_written_and_it_holds_the_state_of_its_own_step(scene):
    async def body(run: Scene) -> None:
        run.step()
        run.learner.gate.clear()
        await run.save()
        for _ in range(3):
            run.step()
            await asyncio.sleep(0)
        assert run.steps() == [] and run.saver.told() == {}, "nobody may see it before it is whole"
        run.learner.gate.set()
        await run.saver.finish()
        assert run.steps() == [1] and run.sealed == [run.folder.checkpoints()[0][1]] and not run.aside()
        (path,) = run.sealed
        assert (path / "weights").read_text() == "1" and (path / "in_flight.pkl").read_text() == "1"
        assert json.loads((path / "trainer.json").read_text()) == {"step": 1, "curve": [1]}

    scene(body)


def test_a_checkpoint_waits_for_the_one_before_and_training_is_told_how_long(scene):
    async def body(run: Scene) -> None:
        run.step()
        run.learner.gate.clear()
        assert await run.save() < 0.05
        run.step()
        second = asyncio.create_task(run.save())
        await asyncio.sleep(0.05)
        assert not second.done() and run.learner.held == 1, "one snapshot at a time"
        run.learner.gate.set()
        assert await second >= 0.05
        assert run.steps() == [1] and run.saver.told().keys() == {"checkpoint/write_s"}
        assert run.saver.told() == {}, "each write is told once"
        await run.saver.finish()
        assert run.saver.told()["checkpoint/write_s"] < 0.05 and run.steps() == [1, 2]

    scene(body)


def test_the_newest_are_kept(scene):
    async def body(run: Scene) -> list[int]:
        for _ in range(4):
            run.step()
            await run.save()
        await run.saver.finish()
        return run.steps()

    assert scene(body, keep=2) == [3, 4]


def test_a_write_that_fails_ends_the_run_at_its_next_step_in_one_sentence(scene):
    async def body(run: Scene) -> None:
        run.step()
        await run.save()
        await run.saver.finish()
        run.saver.told()
        run.learner.failure = OSError(28, "No space left on device")
        run.step()
        await run.save()
        await run.ended()
        with pytest.raises(ServiceFailure) as failure:
            run.saver.told()
        assert str(failure.value) == "the checkpoint of step 2 cannot be written: [Errno 28] No space left on device"
        assert not isinstance(failure.value, ActorsLost), "new learners would not help"
        assert run.steps() == [1] and not run.aside()
        assert run.saver.told() == {} and await run.saver.finish() is None, "it is told once"

    scene(body)


@pytest.mark.parametrize("when", ["take", "finish"])
def test_who_waits_for_a_write_hears_that_it_failed(scene, when):
    async def body(run: Scene) -> None:
        run.learner.failure = OSError(13, "Permission denied")
        run.step()
        await run.save()
        with pytest.raises(ServiceFailure, match="step 1 cannot be written: .*Permission denied"):
            await (run.saver.finish() if when == "finish" else run.save())

    scene(body)


def test_sealing_that_fails_is_told_as_well(scene, monkeypatch):
    async def body(run: Scene) -> None:
        run.step()
        await run.save()
        with pytest.raises(ServiceFailure, match="step 1 cannot be written: no space left"):
            await run.saver.finish()
        assert run.steps() == [] and not run.aside()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    scene(body)


def test_a_folder_that_cannot_be_made_is_told_at_once(scene):
    async def body(run: Scene) -> None:
        (run.folder.path / "checkpoints").write_text("in the way")
        with pytest.raises(ServiceFailure, match="the checkpoint of step 0 cannot be written: .*Not a directory"):
            await run.save()

    scene(body)


def test_a_learner_that_dies_in_mid_write_loses_that_checkpoint_alone(scene):
    async def body(run: Scene) -> None:
        from ray.exceptions import ActorDiedError

        run.step()
        await run.save()
        run.step()
        await run.saver.finish()
        run.learner.failure = ActorDiedError()
        await run.save()
        await run.ended()
        with pytest.raises(ActorsLost) as lost:
            run.saver.told()
        assert lost.value.names == ("learner-0",)
        assert run.steps() == [1]
        assert await run.saver.abandon() == "" and not run.aside()
        run.learner.failure = None  # restarted, and the step is repeated
        await run.save()
        await run.saver.finish()
        assert run.steps() == [1, 2]

    scene(body)


def test_going_back_for_another_reason_waits_for_the_write_and_keeps_it_where_it_was_sealed(scene):
    """A step loses a learner; the write of the checkpoint before it ends by its death, or was just done."""

    async def body(run: Scene) -> None:
        for failure in (RuntimeError("Connection closed by peer"), None):
            run.step()
            run.learner.gate.clear()
            run.learner.failure = failure
            await run.save()
            asyncio.get_running_loop().call_later(0.02, run.learner.gate.set)
            reason = await run.saver.abandon()
            assert ("Connection closed" in reason) == (failure is not None)
        assert run.steps() == [2] and not run.aside()

    scene(body)


def test_a_learner_that_does_not_answer_is_lost(scene):
    async def body(run: Scene) -> None:
        run.step()
        run.learner.gate.clear()
        await run.save()
        with pytest.raises(ActorsLost, match="did not write its part of the checkpoint of step 1 within 0.02 s"):
            await run.saver.finish()

    scene(body, timeout_s=0.02)


def test_the_end_of_a_run_waits_for_the_write_and_a_failure_of_it_is_noted(scene):
    async def body(run: Scene) -> None:
        notes: list[str] = []
        run.step()
        run.learner.gate.clear()
        await run.save()
        asyncio.get_running_loop().call_later(0.02, run.learner.gate.set)
        await run.saver.close(notes.append)
        assert run.steps() == [1] and len(notes) == 1 and notes[0].startswith("finishing the checkpoint")
        run.learner.failure = OSError("disk full")
        run.step()
        await run.save()
        await run.saver.close(notes.append)
        assert run.steps() == [1] and notes[-1] == "the checkpoint of step 2 cannot be written: disk full"
        await run.saver.close(notes.append)
        assert len(notes) == 3, "where nothing is written nothing is said"

    scene(body)


def test_giving_up_the_wait_leaves_the_write_alone(scene):
    """As ctrl-C does while a step waits for the former checkpoint: the end of the run still completes it."""

    async def body(run: Scene) -> None:
        run.step()
        run.learner.gate.clear()
        await run.save()
        waiting = asyncio.create_task(run.saver.finish())
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        run.learner.gate.set()
        await run.saver.close(lambda text: None)
        assert run.steps() == [1]

    scene(body)


def test_what_a_killed_run_left_aside_is_dropped_whatever_its_step(scene):
    async def body(run: Scene) -> None:
        (run.folder.new_checkpoint(7) / "half").write_text("")
        await run.saver.abandon()
        assert not run.aside()
        (run.folder.new_checkpoint(7) / "half").write_text("")
        run.step()
        await run.save()
        await run.saver.finish()
        assert run.steps() == [1] and not run.aside()

    scene(body)


def test_nothing_is_written_that_was_not_taken(scene):
    async def body(run: Scene) -> None:
        with pytest.raises(RuntimeError, match="nothing was taken"):
            run.saver.write()

    scene(body)


# --- the loop -----------------------------------------------------------------------------------------------------


class Recorded(Session):
    """The loop of a session with stand-ins for all that it calls, which write down that they were."""

    def __init__(self, steps: int, every: int, fail_at: int = 0):
        self.cfg = SimpleNamespace(rl=SimpleNamespace(steps=steps), eval=SimpleNamespace(every=0),
                                   run=SimpleNamespace(save_every=every))
        self.done: list[str] = []
        self.fail_at, self._stop = fail_at, asyncio.Event()
        self.trainer = SimpleNamespace(completed=0, step=self._step)
        self.metrics = SimpleNamespace(log=self._log)
        self.progress = SimpleNamespace(step=lambda metrics: None, phase=lambda text: None)
        self.saver = SimpleNamespace(take=self._take, write=lambda: self.done.append("write"), told=self._told,
                                     finish=self._finish)

    async def _step(self) -> dict[str, Any]:
        self.trainer.completed += 1
        self.done.append(f"step {self.trainer.completed}")
        return {"step": self.trainer.completed}

    def _log(self, step: int, metrics: dict[str, Any]) -> None:
        self.done.append("log " + " ".join(metrics))

    async def _take(self, step: int, books: Any) -> float:
        self.done.append(f"take {step}")
        return 0.1

    def _told(self) -> dict[str, float]:
        if self.trainer.completed == self.fail_at:
            raise ServiceFailure("the checkpoint cannot be written")
        return {"checkpoint/write_s": 1.0} if self.trainer.completed == 2 else {}

    async def _finish(self) -> None:
        self.done.append("finish")


def test_the_loop_takes_logs_and_writes_in_this_order_and_completes_the_last():
    run = Recorded(steps=3, every=1)
    asyncio.run(run._train())
    assert run.done == [
        "step 1", "take 1", "log step time/save", "write",
        "step 2", "take 2", "log step time/save checkpoint/write_s", "write",
        "step 3", "take 3", "log step time/save", "write", "finish",
    ]  # fmt: skip


def test_a_stop_completes_the_checkpoint_of_its_step_before_it_is_told():
    run = Recorded(steps=9, every=0)
    run._stop.set()
    with pytest.raises(Interrupted):
        asyncio.run(run._train())
    assert run.done == ["step 1", "take 1", "log step time/save", "write", "finish"]


def test_no_step_is_begun_after_a_write_that_failed():
    run = Recorded(steps=9, every=1, fail_at=2)
    with pytest.raises(ServiceFailure):
        asyncio.run(run._train())
    assert run.done[-2:] == ["step 2", "take 2"]
