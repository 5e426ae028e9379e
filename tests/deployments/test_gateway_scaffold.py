"""The gateway over the real scaffold, whose engine is scripted: what a client gets, and what stops when it leaves."""

from __future__ import annotations

import asyncio

import openai
import pytest
from fake_backend import FakeBackend, serving, wait_until

from actors.checkers.compare import by_spelling
from actors.engine.chat import EngineError
from actors.engine.scripted import Script, ScriptedEngine
from deployments.scaffold import Scaffold

QUESTION = "Ann has 12 pens, gets 30, then loses 5. How many pens does Ann have now?"
PLAN = "<plan>1. Add what she gets.\n2. Subtract what she loses.</plan>"


class Spelling:
    async def compare(self, question, texts):
        return by_spelling(texts)


class ScaffoldBackend(FakeBackend):
    """The scaffold and its engine, in this process."""

    def __init__(self, reply):
        super().__init__()
        self.engine = ScriptedEngine(reply)
        self.scaffold = Scaffold(solver_engine=self.engine, verifier=Spelling())

    def answer(self, request):
        return self.scaffold.run(request.messages, request.settings)

    def complete(self, model, request):
        return self.engine.stream(request)


def reply(request):
    """A plan if one is asked for; the second candidate fails, the others agree."""
    if "Write a short plan" in request.messages[-1]["content"]:
        return PLAN
    if request.seed == 6:
        return EngineError("out of memory")
    return Script(pieces=("<think>12+30-5", "</think>", "<answer>37", "</answer>"), version=4)


def asking(backend, **body):
    with serving(backend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
        messages = [{"role": "user", "content": QUESTION}]
        return sdk.chat.completions.create(model="raythink", messages=messages, seed=5, **body)


def test_plan_candidates_and_vote():
    backend = ScaffoldBackend(reply)
    answer = asking(backend, extra_body={"raythink": {"explain": True, "plan": True}})
    assert answer.choices[0].message.content == "37" and answer.choices[0].message.reasoning_content == "12+30-5"
    told = answer.raythink
    assert told["plan"]["steps"] == ["Add what she gets.", "Subtract what she loses."] and told["n"] == 3
    assert [candidate["state"] for candidate in told["candidates"]] == ["finished", "failed", "finished"]
    assert "out of memory" in told["candidates"][1]["reason"] and told["why"] == "2 of 2 agree"
    assert all("Subtract what she loses" in r.messages[-1]["content"] for r in backend.engine.requests[1:])
    plan_tokens, candidate_tokens = len(PLAN.split()), 4
    assert answer.usage.completion_tokens == plan_tokens + 2 * candidate_tokens
    assert answer.usage.prompt_tokens > 0 and answer.system_fingerprint == "v4"


def test_one_candidate_and_direct_choices():
    backend = ScaffoldBackend(lambda request: "<think>a</think>37")
    assert asking(backend, reasoning_effort="low", logprobs=True).choices[0].message.content == "37"
    assert len(asking(backend, n=4).choices) == 4 and backend.engine.finished == 5


def test_who_leaves_cancels_every_candidate():
    async def never(seconds):
        await asyncio.Event().wait()

    backend = ScaffoldBackend(lambda request: Script("a b c", delay_s=1))
    backend.engine._sleep = never
    with serving(backend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
        messages = [{"role": "user", "content": QUESTION}]
        extra = {"raythink": {"n": 5, "plan": False}}
        stream = sdk.chat.completions.create(model="raythink", messages=messages, stream=True, extra_body=extra)
        wait_until(lambda: backend.engine.running == 5)
        stream.close()
        wait_until(lambda: backend.engine.cancelled == 5)
    assert backend.engine.running == 0


def test_all_candidates_fail():
    backend = ScaffoldBackend(lambda request: EngineError("out of memory"))
    with pytest.raises(openai.InternalServerError, match="out of memory") as caught:
        asking(backend, extra_body={"raythink": {"plan": False}})
    assert caught.value.status_code == 502


@pytest.mark.parametrize(("options", "stopped"), [({}, 2), ({"prune": False}, 0)])
def test_a_request_may_keep_its_unsure_candidates(options, stopped):
    def reply(request):
        pieces = ("w ",) * 30 + (f"<answer>{request.seed}</answer>",)
        return Script(pieces=pieces, logprob=-3.0 if request.seed else 0.0)

    backend = ScaffoldBackend(reply)
    asking(backend, extra_body={"seed": 0, "raythink": {"plan": False, **options}})
    assert backend.engine.cancelled == stopped and backend.engine.started == 3
