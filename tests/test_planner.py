"""Plans: asked for once, never an answer, never the reason for a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import virtual_time
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.chat import ChatRequest, Chunk, EngineError, Usage
from actors.engine.scripted import Script, ScriptedEngine
from actors.messages import Plan
from actors.planner import Planner, clean, pays, without_answer
from actors.prompts import PLAN_REQUEST

QUESTION = "Ann has 12 pens, gets 30, then loses 5. How many pens does Ann have now?"


def planned(reply, **options):
    engine = ScriptedEngine(lambda request: reply)
    return virtual_time.run(Planner(timeout_s=30).plan(QUESTION, engine, **options)), engine


def test_one_request_gives_the_plan_and_its_cost() -> None:
    made, engine = planned("<think>hm</think><plan>Add the numbers. Then subtract the third.</plan>")
    assert made.plan == Plan(
        "Add the numbers. Then subtract the third.", ("Add the numbers.", "Then subtract the third.")
    )
    assert made.reason == "" and made.usage.completion_tokens == 7 and made.usage.prompt_tokens > 10
    (request,) = engine.requests
    assert request.messages[-1]["content"] == f"{QUESTION}\n{PLAN_REQUEST}" and request.timeout_s == 30


def test_earlier_messages_are_given_along() -> None:
    history = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})
    _, engine = planned("<plan>Add.</plan>", history=history, seed=7)
    assert engine.requests[0].messages[:2] == history and engine.requests[0].seed == 7


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (EngineError("down"), "EngineError: down"),
        (ValueError("odd"), "ValueError: odd"),
        (Script("Add the", delay_s=20), "no plan within 30 s"),
        ("", "holds no plan"),
        ("<think>never ends", "holds no plan"),
        ("<plan>The answer is 37.</plan>", "holds no plan"),
    ],
)
def test_a_failure_is_an_empty_plan_with_the_reason(reply: object, reason: str) -> None:
    made, engine = planned(reply)
    assert made.plan == Plan("") and reason in made.reason
    assert engine.running == 0


def test_a_plan_that_is_late_costs_what_it_cost() -> None:
    made, engine = planned(Script("one two three four", delay_s=3), timeout_s=10)
    assert "within 10 s" in made.reason and made.usage == Usage(0, 3) and engine.cancelled == 1


def test_cancelling_is_no_failure_of_the_planner() -> None:
    class Hanging:
        name = "hanging"

        async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
            await asyncio.Event().wait()
            yield Chunk()

    async def scenario() -> None:
        task = asyncio.create_task(Planner().plan(QUESTION, Hanging()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual_time.run(scenario())


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens >= 1"):
        Planner(max_tokens=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Add the numbers. The answer is 42.", "Add the numbers."),
        ("Add the numbers. So the final answer is (B).", "Add the numbers."),
        ("The answer is \\boxed{\\frac{1}{2}}. Check it.", "Check it."),
        ("Find x.\nAnswer: 3.5 m\nCheck it.", "Find x.\nCheck it."),
        ("1. Set x = 5\n2. Solve.\n3. The solution is x = 3.", "1. Set x = 5\n2. Solve."),
        ("The output is True", ""),
        ("The answer is forty-two.", ""),
        ("The result equals \\frac{1}{2}.", ""),
        ("**Answer:** 7", ""),
        ("First 12 + 30 = 42. Then halve it.", "First 12 + 30. Then halve it."),
        ("Find \\boxed{and never close it: 42", "Find"),
    ],
)
def test_what_states_the_answer_is_taken_out(text: str, expected: str) -> None:
    assert without_answer(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Add the first two numbers. Then subtract the third.",
        "The answer is a sum of two terms.",
        "The answer is the larger one of both.",
        "The result should be an integer.",
        "The answer is one of the options; test each.",
        "Set 2 + 3 = 5 + x and solve for x.",
        "Use v = 3 m/s for the speed.",
        "Return the result: the sum of both.",
    ],
)
def test_a_method_stays_as_it_is(text: str) -> None:
    assert without_answer(text) == text


def test_steps_that_only_state_the_answer_are_gone() -> None:
    plan = Plan("Add. The answer is 7.", ("Add.", "The answer is 7."))
    assert clean(plan) == Plan("Add.", ("Add.",))


@given(st.text(alphabet="ab 1+=.\n\\{}boxed answer is", max_size=200), st.integers(0, 10**6))
def test_no_stated_number_survives(noise: str, number: int) -> None:
    text = f"{noise}\nThe answer is {number}."
    assert f"answer is {number}" not in without_answer(text)


@pytest.mark.parametrize("text", ["answer is " * 400, "a." * 2000, "1+" * 2000, "1" * 4000, "\\boxed{" * 500])
def test_long_texts_do_not_make_the_guard_slow(text: str) -> None:
    assert len(without_answer(text)) <= len(text)


@pytest.mark.parametrize(
    ("question", "effort", "worth"),
    [
        (QUESTION, "medium", True),
        (QUESTION, "high", True),
        (QUESTION, "low", False),
        ("hi", "high", False),
        ("Hello, how are you today?", "high", False),
        ("thanks a lot for that", "high", False),
        ("What is 12 + 30?", "high", False),
        ("What is 12 + 30 - 5?", "high", True),
        ("Prove that 17 is prime", "medium", True),
        ("Yes, and now find the determinant of [[1, 2], [3, 4]] and explain it", "medium", True),
    ],
)
def test_a_plan_only_where_it_pays(question: str, effort: str, worth: bool) -> None:
    assert pays(question, effort) is worth
