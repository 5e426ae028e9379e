"""The judge over HTTP: the client alone, and in a checker process under the verifier."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from loopback import KEY, MODEL, Answer, Loopback

from actors.checkers.judge import JudgeFailed
from actors.checkers.judge_client import KEY_VARIABLE, JudgeClient
from actors.messages import Problem, Verdict
from actors.verifier import VerifierPool, spawner
from conf.errors import UserError

YES = Answer(pieces=("Final Decision: ", "Yes"))


def judge_at(server: Loopback, key: str = KEY) -> Callable[[str], str]:
    return JudgeClient(server.url, MODEL, key).within(20.0)


def test_a_prompt_becomes_one_message_at_temperature_0(server: Loopback) -> None:
    server.script(YES)
    assert judge_at(server)("Is it so?") == "Final Decision: Yes"
    body = server.requests[0].body
    assert body["messages"] == [{"role": "user", "content": "Is it so?"}]
    assert (body["model"], body["temperature"]) == (MODEL, 0.0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(status=500), "InternalServerError"),
        (Answer(status=429), "RateLimitError"),
        (Answer(finish_reason="length"), "ended with 'length'"),
        (Answer(status=200, whole=b'{"choices": []}'), "none of the chat protocol"),
        (Answer(status=200, whole=b"{"), "none of the chat protocol"),
    ],
)
def test_what_is_no_whole_reply_is_a_failure(server: Loopback, answer: Answer, said: str) -> None:
    server.script(answer)
    with pytest.raises(JudgeFailed, match=said):
        judge_at(server)("?")
    assert len(server.requests) == 1


def test_a_wrong_key_names_the_variable_to_set(server: Loopback) -> None:
    with pytest.raises(JudgeFailed, match=KEY_VARIABLE):
        judge_at(server, "wrong")("?")


def test_all_questions_share_one_budget(server: Loopback) -> None:
    now = [0.0]
    ask = JudgeClient(server.url, MODEL, KEY).within(5.0, clock=lambda: now[0])
    assert ask("?") == "Hello, world"
    now[0] = 5.0
    with pytest.raises(JudgeFailed, match="within 5 s"):
        ask("?")
    assert len(server.requests) == 1


def test_a_slow_judge_is_left_in_time(server: Loopback) -> None:
    server.script(Answer(delay_s=30))
    with pytest.raises(JudgeFailed, match="APITimeoutError"):
        JudgeClient(server.url, MODEL, KEY).within(0.1, clock=lambda: 0.0)("?")


def test_a_judge_needs_a_model() -> None:
    with pytest.raises(UserError, match="verifier.judge=URL#MODEL"):
        spawner(False, judge_url="http://127.0.0.1:1/v1")


def test_the_verifier_asks_the_judge_from_its_worker(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that no rule decides: judged right, then (the judge is down) an error, never a wrong answer."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    server.script(YES, YES, Answer(status=500))
    row = Problem("p", ({"role": "user", "content": "Why?"},), "stem_web", "science", json.dumps("inertia"))

    async def scenario() -> list[Verdict]:
        spawn = spawner(True, judge_url=server.url, judge_model=MODEL)
        pool = VerifierPool(1, 20.0, 0, spawn=spawn)
        try:
            return [await pool.verify(row, rf"\boxed{{{text}}}") for text in ("its mass", "a push")]
        finally:
            await pool.close()

    right, failed = asyncio.run(scenario())
    assert (right.status, right.reason) == ("correct", "the judge said yes, yes")
    assert failed.status == "error" and "the judge failed: InternalServerError" in failed.reason
    assert "### Student Answer:\nits mass\n" in server.requests[0].body["messages"][0]["content"]
