"""The command's configuration: what is refused before anything starts, and what a resumed run must have the same."""

from __future__ import annotations

import pytest

from conf.errors import UserError
from conf.load import load
from conf.plan import resource_plan
from rl.evaluation.command import plan_of, sampling_of, wanted_suites


def cfg(*words):
    return load(["mode=eval", *words])


@pytest.mark.parametrize("words,message", [
    (["eval.compare=[runs/A]"], "does not name two evaluations"),
    (["engine.kind=openai"], "needs the server's address: set engine.url="),
    (["eval.max_tokens=256"], "leaves no room for a prompt within engine.max_model_len=256"),
    (["eval.safety=[a.jsonl]"], "needs a model as judge: set verifier.judge="),
    (["eval.wave=0"], "eval.wave=0 is too small"),
])
def test_contradictions_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        cfg(*words)


def test_the_papers_settings():
    found = load(["recipe=k2think_eval"])
    sampling = sampling_of(found)
    assert (sampling.temperature, sampling.top_p) == (1.0, 0.95)
    assert (sampling.max_tokens, sampling.stop) == (65536, ("</answer>",))
    assert found.mode == "eval" and found.eval.samples == 16


def test_a_resumed_run_must_have_what_its_samples_follow_from():
    first = cfg("eval.problems=4")
    plan = plan_of(first, wanted_suites(first))
    assert plan == plan_of(cfg("eval.problems=4", "verifier.workers=3"), wanted_suites(first))
    for word in ("eval.seed=8", "eval.wave=3", "eval.stop=[x]", "sampling.max_tokens=50", "engine.count=1"):
        other = cfg("eval.problems=4", word)
        assert plan != plan_of(other, wanted_suites(other)), word
    remote = cfg("eval.problems=4", "engine.kind=openai", "engine.url=http://a/v1")
    assert plan_of(remote, wanted_suites(remote)) == plan_of(
        cfg("eval.problems=4", "engine.kind=openai", "engine.url=http://a/v1", "eval.wave=3"), wanted_suites(remote))


def test_a_servers_engine_takes_nothing_of_this_machine():
    actors = [row.actor for row in resource_plan(cfg("engine.kind=openai", "engine.url=http://a/v1"), 4, 0, 1 << 34)]
    assert actors == ["verifier-0"]


def test_an_ablation_is_not_of_safety_prompts():
    with pytest.raises(UserError, match="not eval.safety"):
        wanted_suites(cfg("eval.ablation=true", "eval.safety=[a.jsonl]", "verifier.judge=http://a/v1#m"))
