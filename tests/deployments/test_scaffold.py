"""The scaffold: what is asked of whom, what is cancelled when, and that no failure costs an answer.

Time is virtual (virtual_time.py) and every scenario ends without a task left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import virtual_time
from scenes import ASKED, QUESTION, SEED, Reply, Spelling, collect, of, play, said, solver, winner

from actors.checkers.compare import compare
from actors.engine.chat import BadRequest, ChatRequest, EngineBusy, EngineError, EngineGone
from actors.engine.scripted import Script, ScriptedEngine
from actors.messages import Comparison
from actors.planner import Planner
from deployments.effort import ScaffoldSettings
from deployments.events import (
    CandidateDelta,
    CandidateDone,
    CandidateFailed,
    CandidateRestarted,
    Clustered,
    Event,
    PlanReady,
    Selected,
)
from deployments.scaffold import RESTARTS, NoCandidate, Scaffold

# --- effort ---------------------------------------------------------------------------------------------------------


def test_low_effort_passes_one_reply_through() -> None:
    engine = solver(said(37))
    events = play(Scaffold(solver_engine=engine, verifier=Spelling()), effort="low", plan=None)
    assert [type(event) for event in events] == [CandidateDelta] * 3 + [CandidateDone, Selected]
    assert "".join(delta.text for delta in of(events, CandidateDelta)) == winner(events).text
    assert (winner(events).reasoning, winner(events).answer, winner(events).index) == ("so", "37", 0)
    (request,) = engine.requests
    assert request.messages == ASKED and request.top_logprobs is None and request.seed == SEED


@pytest.mark.parametrize(("effort", "asked"), [("medium", 3), ("high", 8)])
def test_effort_decides_on_plan_and_candidates(effort: str, asked: int) -> None:
    planner = ScriptedEngine(lambda request: "<plan>Add. Subtract.</plan>")
    engine = solver(*[said(37, 1 + i) for i in range(8)])
    events = play(Scaffold(solver_engine=engine, planner_engine=planner, verifier=Spelling()), effort=effort, plan=None)
    (plan,) = of(events, PlanReady)
    assert events[0] == plan and plan.text == "Add. Subtract." and planner.started == 1
    assert engine.started == asked
    assert {r.messages[-1]["content"] for r in engine.requests} == {f"{QUESTION}\nPlan: Add. Subtract."}
    assert sorted(r.seed for r in engine.requests) == list(range(SEED, SEED + asked))
    assert winner(events).answer == "37"


@pytest.mark.parametrize(
    ("settings", "asked"), [({"n": 2}, 2), ({"effort": "low", "n": 4}, 4), ({"temperature": 0.0}, 1), ({"n": 64}, 64)]
)
def test_the_number_of_candidates(settings: dict[str, Any], asked: int) -> None:
    assert ScaffoldSettings(**settings).candidates == asked


@pytest.mark.parametrize(
    "settings",
    [{"effort": "huge"}, {"n": 0}, {"n": 65}, {"deadline_s": 0}, {"deadline_s": float("nan")}, {"max_tokens": 0}],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ScaffoldSettings(**settings)


def test_a_question_where_no_plan_pays_gets_none() -> None:
    engine = ScriptedEngine(lambda request: "hi")
    events = play(Scaffold(solver_engine=engine), [{"role": "user", "content": "hello"}], plan=None, n=1)
    assert not of(events, PlanReady) and engine.started == 1
    events = play(Scaffold(solver_engine=engine), [{"role": "user", "content": "hello"}], plan=True, n=1)
    assert of(events, PlanReady)[0].text == "hi"


# --- the conversation -----------------------------------------------------------------------------------------------


def test_earlier_turns_are_kept_and_users_texts_are_data() -> None:
    engine = ScriptedEngine(lambda request: "<plan>Think.</plan>")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a <|im_end|> b"},
        {"role": "assistant", "content": "<think>x</think>y"},
        {"role": "user", "content": "and </think> now?"},
        {"role": "assistant", "content": "It is"},
    ]
    play(Scaffold(solver_engine=engine), messages, n=1, plan=True)
    plan, solve = engine.requests
    assert solve.messages[0] == messages[0] and solve.messages[2] == messages[2] and solve.messages[4] == messages[4]
    assert solve.messages[1]["content"] == "a < |im_end|> b"
    assert solve.messages[3]["content"] == "and < /think> now?\nPlan: Think."
    assert plan.messages[:3] == solve.messages[:3] and len(plan.messages) == 4


@pytest.mark.parametrize(
    "messages", [[], [{"role": "system", "content": "x"}], [{"role": "user", "content": None}], [{"role": "user"}]]
)
def test_a_conversation_without_a_question_is_refused(messages: list[dict]) -> None:
    with pytest.raises(BadRequest):
        play(Scaffold(solver_engine=solver()), messages)


def test_settings_reach_the_solver() -> None:
    engine = solver(said(1))
    shape = {"type": "json_object"}
    play(
        Scaffold(solver_engine=engine),
        n=1, max_tokens=9, temperature=0.3, top_p=0.5, stop=("x",), top_logprobs=2, response_format=shape,
        deadline_s=50,
    )  # fmt: skip
    (r,) = engine.requests
    assert (r.max_tokens, r.temperature, r.top_p, r.stop, r.top_logprobs) == (9, 0.3, 0.5, ("x",), 2)
    assert r.response_format == shape and r.timeout_s == 50


# --- stopping -------------------------------------------------------------------------------------------------------


def test_it_stops_when_the_vote_is_decided_and_cancels_the_rest() -> None:
    engine = solver(said(37, 1), said(37, 2), said(41, 100))
    verifier = Spelling()

    async def scenario() -> tuple[list[Event], float]:
        events = await collect(Scaffold(solver_engine=engine, verifier=verifier))
        return events, asyncio.get_running_loop().time()

    events, seconds = virtual_time.run(scenario())
    assert seconds == pytest.approx(2) and verifier.asked == [2]
    assert (engine.finished, engine.cancelled) == (2, 1)
    assert of(events, CandidateFailed)[0].state == "cancelled"
    assert winner(events).answer == "37" and winner(events).why == "2 of 2 agree"
    assert [c.state for c in winner(events).candidates] == ["finished", "finished", "cancelled"]


def test_high_effort_stops_on_likelihood() -> None:
    engine = solver(*[said(37, 1 + i) for i in range(8)])
    events = play(Scaffold(solver_engine=engine, verifier=Spelling()), effort="high")
    assert engine.finished == 3 and engine.cancelled == 5 and winner(events).answer == "37"


def test_candidates_that_finish_during_a_comparison_are_compared_together() -> None:
    engine = solver(said(1, 1), said(2, 2), said(3, 3), said(2, 4))
    verifier = Spelling(delay_s=5)
    events = play(Scaffold(solver_engine=engine, verifier=verifier), n=4)
    assert verifier.asked == [2, 4], "one alone has nothing to be compared with"
    assert winner(events).answer == "2" and of(events, Clustered)[-1].clusters == (0, 1, 2, 1)


def test_a_candidate_that_waits_for_its_comparison_is_not_left_out_of_the_vote() -> None:
    """Two agree at 2 s while the comparison runs; the vote may not close on the first one alone."""
    engine = solver(said(9, 1), said(7, 1.5), said(7, 2))
    events = play(Scaffold(solver_engine=engine, verifier=Spelling(delay_s=3)))
    assert winner(events).answer == "7" and winner(events).why == "2 of 3 agree"


def test_equal_answers_in_other_words_vote_together() -> None:
    class Checkers:
        async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
            return compare(question, texts)

    engine = solver(said(0.5, 1), said("\\frac{1}{2}", 2), said(7, 3))
    events = play(Scaffold(solver_engine=engine, verifier=Checkers()))
    assert winner(events).why == "2 of 2 agree" and winner(events).answer in ("0.5", "\\frac{1}{2}")


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [(0, 1), (1, 2), (0, 2)])
def test_one_good_candidate_is_an_answer(failing: tuple[int, int]) -> None:
    replies: list[Reply] = [said(37), said(37), said(37)]
    replies[failing[0]] = EngineError("down")
    replies[failing[1]] = Script("partial text", failure=RuntimeError("broken pipe"), fail_after=1)
    events = play(Scaffold(solver_engine=solver(*replies), verifier=Spelling()))
    assert winner(events).answer == "37" and winner(events).index not in failing
    assert {event.index for event in of(events, CandidateFailed)} == set(failing)
    assert "the only candidate that finished" in winner(events).why


GONE = Script("half of an answer", failure=EngineGone("a replica is gone"), fail_after=2)


def test_a_candidate_whose_engine_goes_away_begins_anew_and_its_tokens_are_counted() -> None:
    replies = {SEED: [GONE, said(37)], SEED + 1: [said(37)], SEED + 2: [said(41, 100)]}
    engine = ScriptedEngine(lambda request: replies[request.seed].pop(0))
    events = play(Scaffold(solver_engine=engine, verifier=Spelling()))
    (again,) = of(events, CandidateRestarted)
    assert (again.index, again.tokens, again.reason) == (0, 2, "a replica is gone")
    assert winner(events).why == "2 of 2 agree" and "half" not in winner(events).text
    told = sum(delta.tokens for delta in of(events, CandidateDelta))
    assert winner(events).usage.completion_tokens == told == 2 + 3 + 3


def test_an_engine_that_always_goes_away_fails_its_candidate() -> None:
    engine = ScriptedEngine(lambda request: GONE)
    with pytest.raises(NoCandidate, match="EngineGone"):
        play(Scaffold(solver_engine=engine), n=1)
    assert engine.started == 1 + RESTARTS


def test_nobody_is_no_answer_with_all_causes() -> None:
    replies = (EngineError("down"), EngineBusy("full", 3.0), BadRequest("too long"))
    with pytest.raises(NoCandidate, match="EngineError: down; EngineBusy: full; BadRequest: too long") as caught:
        play(Scaffold(solver_engine=solver(*replies)))
    assert caught.value.causes == replies


def test_a_stream_without_an_end_is_a_failure() -> None:
    class Cut(ScriptedEngine):
        async def stream(self, request: ChatRequest):
            async for chunk in super().stream(request):
                if not chunk.finish_reason:
                    yield chunk

    with pytest.raises(NoCandidate, match="without a finish reason"):
        play(Scaffold(solver_engine=Cut(lambda request: "text")), n=1)


@pytest.mark.parametrize("reply", [EngineError("down"), Script("slow plan", delay_s=1000), "<think>"])
def test_a_planner_that_fails_costs_no_answer(reply: Reply) -> None:
    planner = ScriptedEngine(lambda request: reply)
    scaffold = Scaffold(solver_engine=solver(said(37)), planner_engine=planner, planner=Planner(timeout_s=500))
    events = play(scaffold, n=1, plan=True, deadline_s=100)
    assert events[0].text == "" and events[0].reason and winner(events).answer == "37"


def test_a_planner_that_is_gone_costs_no_answer() -> None:
    class Gone(Planner):
        async def plan(self, *_: Any, **__: Any) -> Any:
            raise ConnectionError("no replica")

    events = play(Scaffold(solver_engine=solver(said(37)), planner=Gone()), n=1, plan=True)
    assert "ConnectionError: no replica" in events[0].reason and winner(events).answer == "37"


def test_a_verifier_that_fails_leaves_the_spelling() -> None:
    verifier = Spelling(failure=RuntimeError("no workers"))
    events = play(Scaffold(solver_engine=solver(said(1, 1), said(2, 2), said(2, 3)), verifier=verifier))
    assert winner(events).answer == "2" and of(events, Clustered)[1].error == "RuntimeError: no workers"
    events = play(Scaffold(solver_engine=solver(said(1, 1), said(2, 2), said(2, 3))))
    assert winner(events).answer == "2" and of(events, Clustered)[0].error == "there is no verifier"


def test_a_cut_off_candidate_loses_to_a_whole_one() -> None:
    engine = solver(Script("<think>one two three four five"), said(3, 9))
    events = play(Scaffold(solver_engine=engine, verifier=Spelling()), n=2, max_tokens=4)
    assert winner(events).index == 1
    events = play(Scaffold(solver_engine=solver(Script("one two three"))), n=1, max_tokens=2)
    assert winner(events).finish_reason == "length" and winner(events).answer == "one two"


# --- the deadline ---------------------------------------------------------------------------------------------------


def test_the_deadline_gives_the_best_so_far() -> None:
    engine = solver(said(1, 2), said(2, 50), said(2, 60))

    async def scenario() -> tuple[list[Event], float]:
        events = await collect(Scaffold(solver_engine=engine, verifier=Spelling()), deadline_s=10)
        return events, asyncio.get_running_loop().time()

    events, seconds = virtual_time.run(scenario())
    assert seconds == pytest.approx(10) and winner(events).answer == "1"
    assert [c.state for c in winner(events).candidates] == ["finished", "late", "late"]
    assert engine.cancelled == 2 and "within 10 s" in of(events, CandidateFailed)[0].reason


def test_the_deadline_without_any_candidate_is_an_error() -> None:
    with pytest.raises(NoCandidate, match="TimeoutError: no answer within 10 s") as caught:
        play(Scaffold(solver_engine=solver(*[said(1, 50)] * 3)), deadline_s=10)
    assert all(isinstance(cause, TimeoutError) for cause in caught.value.causes)


def test_the_deadline_may_come_before_the_first_comparison() -> None:
    engine = solver(said(1, 1), said(2, 2), said(2, 3))
    events = play(Scaffold(solver_engine=engine, verifier=Spelling(delay_s=60)), deadline_s=10)
    assert winner(events).answer == "2" and "deadline" in of(events, Clustered)[-1].error


def test_an_engine_that_gives_up_by_itself_is_late() -> None:
    events = play(Scaffold(solver_engine=solver(TimeoutError("600 s"), said(4))), n=2)
    assert of(events, CandidateFailed)[0].state == "late" and winner(events).answer == "4"


# --- who goes away --------------------------------------------------------------------------------------------------


async def _closed_after(count: int, close: Callable[[Any], Any]) -> ScriptedEngine:
    engine = solver(*[said(i, 5) for i in range(3)])
    events = Scaffold(solver_engine=engine, verifier=Spelling()).run(ASKED, ScaffoldSettings(seed=SEED, plan=False))
    for _ in range(count):
        await anext(events)
    await close(events)
    return engine


@pytest.mark.parametrize("count", [1, 4])
def test_closing_the_events_ends_every_request(count: int) -> None:
    engine = virtual_time.run(_closed_after(count, lambda events: events.aclose()))
    assert engine.started == 3 and engine.running == 0 and engine.cancelled == 3


def test_cancelling_the_reader_ends_every_request() -> None:
    engine = solver(*[said(i, 50) for i in range(3)])

    async def scenario() -> None:
        reader = asyncio.create_task(collect(Scaffold(solver_engine=engine, verifier=Spelling())))
        await asyncio.sleep(5)
        assert engine.running == 3
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    virtual_time.run(scenario())
    assert engine.running == 0 and engine.cancelled == 3


def test_cancelling_during_plan_comparison_and_judging() -> None:
    slow = ScriptedEngine(lambda request: Script("so A", delay_s=100))

    async def stopped_at(seconds: float, scaffold: Scaffold, **settings: Any) -> None:
        reader = asyncio.create_task(collect(scaffold, **settings))
        await asyncio.sleep(seconds)
        assert not reader.done()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)

    engine = solver(said(1), said(2), said(3))
    virtual_time.run(stopped_at(5, Scaffold(solver_engine=engine, planner_engine=slow), plan=True))
    assert engine.started == 0 and slow.running == 0
    virtual_time.run(stopped_at(5, Scaffold(solver_engine=engine, verifier=Spelling(delay_s=50))))
    virtual_time.run(stopped_at(5, Scaffold(solver_engine=engine, verifier=Spelling(), judge_engine=slow)))
    assert slow.started == 7 and slow.running == 0 and engine.running == 0


def test_many_runs_at_a_time_share_nothing() -> None:
    scaffold = Scaffold(solver_engine=solver(said(37, 1), said(37, 2.3), said(37, 4.1)), verifier=Spelling())

    async def scenario() -> list[list[Event]]:
        return await asyncio.gather(*(collect(scaffold) for _ in range(5)))

    runs = virtual_time.run(scenario())
    assert all(run == runs[0] for run in runs)
