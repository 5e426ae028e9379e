"""What benchmarks.chaos plans and reports, without a cluster."""

from __future__ import annotations

import subprocess
import time
from types import SimpleNamespace

import pytest

from benchmarks import nodes
from benchmarks.chaos import KINDS, Killed, outage, plan
from benchmarks.nodes import kill_families


def test_kinds_take_turns_over_the_run_and_the_node_falls_in_the_middle():
    assert plan(4, 10, KINDS, False) == [(1, "rollout"), (3, "verifier"), (5, "learner"), (7, "rollout")]
    kinds = [kind for _, kind in plan(12, 140, (*KINDS, "planner"), True)]
    assert kinds.index("node") == 6 and kinds.count("planner") == 3 and len(kinds) == 13
    assert plan(0, 10, KINDS, False) == []


@pytest.mark.parametrize("steps", [2, 8, 140])
def test_no_kill_is_planned_for_after_the_last_step_but_one(steps):
    assert all(1 <= after < steps for after, _ in plan(12, steps, KINDS, True))


def row(name: str, time: float, after: str, recovery_s: float | None = None) -> dict:
    return {"name": name, "time": time, "after": after, "recovery_s": recovery_s}


def test_an_outage_is_told_by_the_events_after_its_kill():
    events = [row("r", 1, "dead"), row("r", 5, "healthy", 4.0), row("v", 12, "dead"), row("r", 13, "dead"),
              row("r", 14, "restarting"), row("r", 30, "healthy", 17.0)]
    told = outage(Killed("node", ["r", "v", "l"], 7, at=10), "r", events)
    assert told == {"kind": "node", "name": "r", "step": 7, "noticed_s": 3, "back_s": 20}
    assert outage(Killed("node", ["v"], 7, at=10), "v", events)["back_s"] is None
    assert outage(Killed("node", ["l"], 7, at=10), "l", events)["noticed_s"] is None


def test_what_a_cut_needs_is_told_in_a_sentence(monkeypatch):
    monkeypatch.delenv(nodes.INSIDE, raising=False)
    monkeypatch.setattr(nodes.shutil, "which", lambda tool: None if tool == "nsenter" else tool)
    assert nodes.enter() == "--cut needs `nsenter` to make network namespaces: install util-linux"
    monkeypatch.setattr(nodes.shutil, "which", lambda tool: tool)
    refused = SimpleNamespace(returncode=1, stderr="unshare: Operation not permitted\n")
    monkeypatch.setattr(nodes.subprocess, "run", lambda *words, **options: refused)
    assert "Operation not permitted" in nodes.enter() and "as root" in nodes.enter()


def test_a_family_dies_with_its_head():
    head = subprocess.Popen(["sh", "-c", "sleep 60 & echo started; wait"], stdout=subprocess.PIPE, text=True)
    assert head.stdout.readline() == "started\n"
    began = time.monotonic()
    kill_families([head.pid, 2**22 + 1])  # the second is nobody's number
    assert head.wait(30) == -9
    assert head.stdout.read() == "" and time.monotonic() - began < 50  # the child held the pipe open
    head.stdout.close()
