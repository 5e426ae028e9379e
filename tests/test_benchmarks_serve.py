"""What the serving benchmarks count: the K2-Think flow's calls, the needed candidate, points, tokens, servers' ends."""

from __future__ import annotations

import asyncio
import math
import sys
import urllib.request

import psutil
import pytest

from actors.engine.chat import Usage
from actors.messages import Comparison
from actors.prompts import PLAN_REQUEST
from benchmarks.bare import Timed
from benchmarks.client import Reply, gather_bounded, load
from benchmarks.latency import decided_s
from benchmarks.peers.environment import Environment, Install
from benchmarks.peers.k2think import K2Think
from benchmarks.quality import Tally, gain, planner_tokens
from benchmarks.servers import Server
from conf.checks import free_port


def reply(text: str, tokens: int = 1, body: dict | None = None) -> Reply:
    return Reply((text,), 10, tokens, 0.0, body or {})


class Model:
    """A client whose model plans, solves and judges as told; `log` holds what was begun and ended, in order."""

    def __init__(self, verdicts: list[str]):
        self.verdicts, self.solved, self.log = verdicts, 0, []

    async def complete(self, prompt: str, **options) -> Reply:
        kind = "plan" if PLAN_REQUEST in prompt else "judge" if "better?" in prompt else "solve"
        self.log.append((kind, "begins", prompt, options))
        await asyncio.sleep(0)
        self.log.append((kind, "ends", prompt, options))
        if kind == "plan":
            return reply("<plan>Add them.</plan>", 5)
        if kind == "judge":
            return reply(self.verdicts.pop(0), 2)
        self.solved += 1
        return reply(f"<think>...</think>answer {self.solved}", 20)


def answer(*verdicts: str):
    model = Model(list(verdicts))
    return asyncio.run(K2Think(model, lambda text: f"[{text}]", 96).answer("How many?", 7)), model.log


def test_the_flow_makes_eight_planner_calls_and_three_solver_calls():
    flow, log = answer("0", "0")
    assert (flow.planner_calls, flow.solver_calls) == (8, 3)
    assert (flow.prompt_tokens, flow.completion_tokens) == (110, 6 * 5 + 2 * 2 + 3 * 20)
    assert all("Plan: Add them." in prompt for kind, _, prompt, _ in log if kind == "solve")
    assert {options["seed"] for kind, _, _, options in log if kind == "solve"} == {7, 8, 9}


def test_the_flow_waits_for_all_samples_and_judges_one_pair_after_the_other():
    _, log = answer("0", "0")
    kinds = [(kind, event) for kind, event, _, _ in log]
    assert kinds[-4:] == [("judge", "begins"), ("judge", "ends")] * 2
    assert all(kind != "judge" for kind, _ in kinds[:-4])


@pytest.mark.parametrize(("verdicts", "winner"), [
    (("0", "0"), 1), (("1", "0"), 2), (("0", "1"), 3), (('1, "explanation": "0 is wrong"}', "neither"), 2),
])
def test_the_judge_chooses_and_an_unreadable_verdict_keeps_who_is_ahead(verdicts, winner):
    assert answer(*verdicts)[0].text.endswith(f"answer {winner}")


class Comparer:
    """Texts that are equal answer alike; `fails` is what a comparison raises."""

    def __init__(self, fails: Exception | None = None):
        self.fails = fails

    async def compare(self, question: str, texts: list[str]) -> Comparison:
        if self.fails:
            raise self.fails
        clusters = tuple(list(dict.fromkeys(texts)).index(text) for text in texts)
        return Comparison(tuple(texts), clusters, (None,) * len(texts), ("",) * len(texts))


@pytest.mark.parametrize(("texts", "expected"), [
    (("a", "b", "a"), 2.0),  # by their ends: a, a
    (("a", "a", "b"), 3.0),  # a, b, a: open until the third
    (("a", "b", "c"), 3.0),
])
def test_the_bound_ends_with_the_candidate_that_decides_the_vote(texts, expected):
    ends = (1.0, 3.0, 2.0)
    candidates = [Timed(text, Usage(), None, end) for text, end in zip(texts, ends, strict=True)]
    assert asyncio.run(decided_s("?", candidates, Comparer())) == expected


def test_a_comparison_that_fails_leaves_the_spelling():
    candidates = [Timed("<answer>4</answer>", Usage(), None, end) for end in (1.0, 2.0, 3.0)]
    assert asyncio.run(decided_s("?", candidates, Comparer(RuntimeError("gone")))) == 2.0


def test_points_are_of_questions_and_a_failed_check_counts_for_neither():
    better = Tally([[1.0, 1.0, 0.0], [1.0, None, 0.0]])
    other = Tally([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    points, error = gain(better, other)
    assert points == pytest.approx(50 / 3) and error == pytest.approx(50 / 3)  # 50, 0 and 0
    assert better.accuracy == pytest.approx(3 / 5)
    assert math.isnan(gain(Tally([[1.0]]), Tally([[0.0]]))[1])


def test_what_the_usage_counts_beside_the_candidates_is_the_plan():
    body = {"raythink": {"candidates": [{"tokens": 20}, {"tokens": 30}, {"tokens": 5}]}}
    assert planner_tokens(reply("", 63, body)) == 8


def test_calls_come_back_in_order_and_never_too_many_run():
    running = most = 0

    async def call(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return number

    found = asyncio.run(gather_bounded([lambda n=n: call(n) for n in range(9)], 3))
    assert (found, most) == (list(range(9)), 3)


def test_load_counts_where_replies_end_and_leaves_the_first_stretch_out():
    now = 0.0

    async def ask(number: int) -> Reply:
        nonlocal now
        now += 0.5
        return reply("", 10)

    assert asyncio.run(load(ask, 1, 3, 1.0, clock=lambda: now)) == [20.0, 20.0, 20.0]


def test_an_environment_is_ready_with_exactly_its_pins(tmp_path):
    pins = (Install(("a==1",), ("--no-deps",)), Install(("a==1", "b==2")))
    environment = Environment("peer", ".venv-peer", pins, "import a")
    assert environment.stamp == "a==1\nb==2\n" and not environment.is_ready(tmp_path)
    python = environment.python(tmp_path)
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / ".venv-peer" / "pins.txt").write_text("a==1\n")
    assert not environment.is_ready(tmp_path)
    (tmp_path / ".venv-peer" / "pins.txt").write_text(environment.stamp)
    assert environment.is_ready(tmp_path) and environment.ensure(tmp_path) == python


HEALTHY = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(child.pid).encode())
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.process
def test_a_server_is_stopped_with_what_it_started(monkeypatch):
    monkeypatch.setattr("benchmarks.servers.LEFT_S", 0.1)
    port = free_port()
    with Server("the test's", [sys.executable, "-c", HEALTHY, str(port)], port) as server:
        with urllib.request.urlopen(f"{server.url}/health") as response:
            child = psutil.Process(int(response.read()))
        assert child.is_running() and server.folder.is_dir()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert not server.folder.exists()


@pytest.mark.process
def test_a_server_that_ends_early_says_why():
    server = Server("the test's", [sys.executable, "-c", "raise SystemExit('no room')"], free_port())
    with pytest.raises(RuntimeError, match="ended early:\n.*no room"), server:
        pytest.fail("it is not ready")
