"""Which candidates are stopped for being far less sure: the rule, and what the scaffold does by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import SEED, Spelling, of, play, said, solver, winner

from actors.engine.chat import EngineError
from actors.engine.scripted import Script
from deployments.events import CandidateFailed, CandidateRestarted
from deployments.pruning import MARGIN, Sureness, has_examples, hopeless, kept, window_of
from deployments.scaffold import Scaffold

SHORT = {"max_tokens": 96, "prune": True}
CODE = "Write a Python function f that doubles a number. For example, f(2) == 4."


def unsure(answer: object, delay_s: float = 1.0, logprob: float = -2.0) -> Script:
    return replace(said(answer, delay_s), logprob=logprob)


# --- the rule -------------------------------------------------------------------------------------------------------


def test_the_window_is_a_share_of_the_longest_reply():
    assert (window_of(96), window_of(32768), window_of(1)) == (8, 2730, 8)
    assert (kept(2), kept(3), kept(8), kept(64)) == (1, 1, 2, 16)


def test_what_is_not_there_yet_counts_as_certain_and_the_worst_window_stays():
    sure = Sureness(4)
    assert sure.lowest == 0
    sure.add([-2.0])
    assert sure.lowest == pytest.approx(-0.5)
    sure.add([0.0] * 50)
    assert sure.lowest == pytest.approx(-0.5)
    sure.add([float("-inf"), 0.0, 0.0, 0.0, 0.0, 0.0])
    assert sure.lowest == pytest.approx(-25.0)


@settings(deadline=None)
@given(st.lists(st.floats(-20, 0), max_size=60), st.integers(1, 12), st.integers(1, 7))
def test_sureness_is_the_lowest_window_however_the_tokens_come(logprobs, window, piece):
    sure = Sureness(window)
    for start in range(0, len(logprobs), piece):
        sure.add(logprobs[start : start + piece])
    padded = [0.0] * window + logprobs
    windows = [sum(padded[end - window : end]) / window for end in range(window, len(padded) + 1)]
    assert sure.lowest == pytest.approx(min(windows), abs=1e-6)


def test_only_those_that_run_are_stopped_and_some_are_always_left():
    lowest = {0: -0.1, 1: -0.1 - 2 * MARGIN, 2: -3.0}
    assert hopeless(lowest, [0, 1, 2], 1) == [2, 1] and hopeless(lowest, [0, 1, 2], 2) == [2]
    assert hopeless(lowest, [0, 1], 1) == [1] and hopeless(lowest, [], 1) == [] and hopeless({}, [], 1) == []
    assert hopeless({0: -3.0, 1: -3.0 - MARGIN / 2}, [0, 1], 1) == []


def test_examples_are_found_in_programming_questions_only():
    assert has_examples(CODE) and not has_examples(CODE.split(" For")[0]) and not has_examples("Is f(2) == 4?")


# --- in the scaffold ------------------------------------------------------------------------------------------------


def test_a_candidate_that_is_far_less_sure_is_stopped_while_it_writes():
    engine = solver(unsure(7, 30), said(37, 3), unsure(7, 30))
    events = play(Scaffold(solver_engine=engine, verifier=Spelling()), **SHORT)
    stopped = of(events, CandidateFailed)
    assert {(e.index, e.state) for e in stopped} == {(0, "cancelled"), (2, "cancelled")}
    assert {e.reason for e in stopped} == {"far less sure than another candidate"}
    assert engine.cancelled == 2 and winner(events).answer == "37" and winner(events).index == 1
    assert winner(events).why == "by far the surest, the others were stopped"
    assert winner(events).usage.completion_tokens < 9


@pytest.mark.parametrize("how", [{"prune": False}, {"max_tokens": 4096}])
def test_it_can_be_switched_off_and_a_long_reply_is_not_stopped_for_a_few_tokens(how):
    engine = solver(unsure(7, 1), said(37, 3), unsure(7, 2))
    events = play(Scaffold(solver_engine=engine, verifier=Spelling()), **SHORT | how)
    assert winner(events).answer == "7"


def test_nobody_is_stopped_where_the_question_has_examples():
    class Down:
        async def compare(self, question, texts):
            raise EngineError("down")

    engine = solver(unsure(7, 1), said(37, 3), unsure(7, 2))
    events = play(Scaffold(solver_engine=engine, verifier=Down()), [{"role": "user", "content": CODE}], **SHORT)
    assert engine.cancelled <= 1 and winner(events).answer == "7"


def test_where_the_survivor_fails_the_surest_of_the_others_is_asked_anew():
    survivor = replace(said(37, 36), failure=EngineError("down"), fail_after=2)
    asked = {SEED: [unsure(7, 30), said(7, 1)], SEED + 1: [survivor], SEED + 2: [unsure(8, 30, -4.0)]}
    engine = solver()
    engine._reply = lambda request: asked[request.seed].pop(0)
    events = play(Scaffold(solver_engine=engine, verifier=Spelling()), **SHORT)
    (again,) = of(events, CandidateRestarted)
    assert again.index == 0 and winner(events).answer == "7" and winner(events).index == 0
    assert {c.index: c.state for c in winner(events).candidates} == {0: "finished", 1: "failed", 2: "cancelled"}
