"""Actors brought back, and where a run may be saved: with stand-ins for Ray's actors."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from virtual_time import run

from conf.errors import UserError
from rl.cluster import check_storage, restart_rollout, restart_verifier


class Actor:
    """Answers `status` with each of `states` in turn; one that is an error is raised."""

    def __init__(self, *states):
        self.states, self.calls = list(states), []

    def __getattr__(self, method):
        async def answer(*arguments):
            self.calls.append(method)
            if method != "status":
                return None
            state = self.states.pop(0)
            if isinstance(state, Exception):
                raise state
            return {"state": state} if state else {}

        return SimpleNamespace(remote=lambda *a: asyncio.get_running_loop().create_task(answer(*a)))


@pytest.fixture
def kills(monkeypatch):
    import ray

    killed = []
    monkeypatch.setattr(ray, "kill", lambda actor, no_restart: killed.append(no_restart))
    return killed


def test_a_dead_actor_is_started_once_its_new_process_answers(kills):
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    actor = Actor(ActorUnavailableError("", b"0" * 16), ActorDiedError(), "starting")
    run(restart_rollout(actor, False))
    assert actor.calls == ["status"] * 3 + ["start"] and kills == []


def test_one_that_was_cut_off_and_lives_on_is_killed_and_not_started_twice(kills):
    actor = Actor("ready", "generating", "starting")
    run(restart_rollout(actor, False))
    assert actor.calls == ["status"] * 3 + ["start"] and kills == [False, False]


def test_a_verifier_that_lives_on_is_as_good_as_a_new_one(kills):
    run(restart_verifier(Actor(None), False))
    assert kills == []


class Sees:
    def __init__(self, folders):
        self.sees = SimpleNamespace(remote=lambda f: asyncio.get_running_loop().create_task(self._sees(f, folders)))

    async def _sees(self, folder, folders):
        return folder in folders


def test_a_run_folder_that_a_learner_does_not_see_is_refused():
    asyncio.run(check_storage([Sees(["/runs/a"]), Sees(["/runs/a"])], Path("/runs/a")))
    with pytest.raises(UserError, match="learner-1: no /runs/a on that node .* run.dir on storage"):
        asyncio.run(check_storage([Sees(["/runs/a"]), Sees([])], Path("/runs/a")))
