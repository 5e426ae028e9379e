"""Killed evaluations end as unbroken ones do; what cannot be judged or answered is an error and never a zero."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from stand_ins import Judge, Rollout, Verifiers, problem

from actors.engine import Sampling
from actors.engine.chat import BadRequest, EngineError
from actors.engine.scripted import Script, ScriptedEngine
from conf.errors import UserError
from rl.dispatcher import ServiceFailure
from rl.evaluation.results import scores
from rl.evaluation.sampling import Batch, Replies, Waves, collect, seed_of, with_stop
from rl.evaluation.store import SampleStore, export

PROBLEMS = tuple(problem(f"p{i}") for i in range(10))
BATCH = Batch("test", PROBLEMS, 4)
PLAN = {"eval.seed": 7}


def waves(rollouts, judge=None, wave=3):
    return Waves(rollouts, [Verifiers(judge or Judge())], Sampling(), seed=7, problems=wave, timeout_s=5.0)


def sample(folder, sampler, batch=BATCH):
    """One start of an evaluation; returns its store."""
    with SampleStore(folder, PLAN) as store:
        asyncio.run(collect(sampler, batch, store, lambda done, total: None))
    return store


def texts(store):
    return {(r["problem_id"], r["sample"]): r["completion"] for r in store.rows("test")}


# --- our own engines ----------------------------------------------------------------------------------------------


def test_an_evaluation_killed_five_times_ends_as_an_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    expected = sample(whole, waves([Rollout(), Rollout()], wave=2))
    for wave in (1, 2, 2, 2, 2):  # in the middle of the first wave, then of the second of each start
        with pytest.raises(ServiceFailure, match="killed in the middle of a wave"):
            sample(broken, waves([Rollout(), Rollout(fail_at=wave)], wave=2))
    store = sample(broken, waves([Rollout(), Rollout()], wave=2))
    assert texts(store) == texts(expected) and store.done == expected.done
    assert len(texts(store)) == 40
    assert (broken / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_what_is_stored_is_not_sampled_again(tmp_path):
    first, second = Rollout(), Rollout()
    sample(tmp_path, waves([first]))
    sample(tmp_path, waves([second]))
    assert first.calls == [3, 3, 3, 1] and second.calls == []


@pytest.mark.parametrize("cut", [1, 30, 400])
def test_a_torn_last_line_is_a_wave_to_be_done_again(tmp_path, cut):
    expected = texts(sample(tmp_path, waves([Rollout()])))
    path = tmp_path / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    again = Rollout()
    assert texts(sample(tmp_path, waves([again]))) == expected and again.calls == [1]


def test_a_wave_does_not_depend_on_the_waves_before_it(tmp_path):
    """Seeds follow from seed, suite and place: neighbours and other suites differ."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one = sample(tmp_path / "a", waves([Rollout()]))
    with SampleStore(tmp_path / "b", PLAN) as store:
        asyncio.run(collect(waves([Rollout()]), Batch("other", PROBLEMS, 4), store, lambda *_: None))
        other = {key[1:]: row["extracted"] for key, row in store.done.items()}
    assert {key[1:]: row["extracted"] for key, row in one.done.items()} != other


def test_plans_are_sampled_but_not_judged(tmp_path):
    judge = Judge()
    store = sample(tmp_path, waves([Rollout()], judge), Batch("test", PROBLEMS, 2, judged=False))
    assert judge.seen == [] and {row["status"] for row in store.done.values()} == {"error"}


# --- the store ----------------------------------------------------------------------------------------------------


def test_another_plan_is_refused_by_name(tmp_path):
    sample(tmp_path, waves([Rollout()]))
    with pytest.raises(UserError, match="was begun with another eval.seed: give the same settings"):
        SampleStore(tmp_path, {"eval.seed": 8})


def test_a_damaged_line_in_the_middle_is_refused(tmp_path):
    sample(tmp_path, waves([Rollout()]))
    path = tmp_path / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "rubbish\n", *lines[2:]]))
    with pytest.raises(UserError, match="line 2 is no batch of samples"):
        SampleStore(tmp_path, PLAN)


def test_a_sample_cannot_be_stored_twice(tmp_path):
    with SampleStore(tmp_path, PLAN) as store:
        row = {"suite": "s", "problem_id": "p", "sample": 0, "completion": "x"}
        store.append([row])
        with pytest.raises(ValueError, match="sampled twice"):
            store.append([row])


def test_the_export_has_prompts_and_all_rows(tmp_path):
    import pyarrow.parquet as pq

    store = sample(tmp_path, waves([Rollout()]))
    export(store, "test", {p.id: p.question for p in PROBLEMS}, tmp_path / "samples" / "test.parquet")
    rows = pq.read_table(tmp_path / "samples" / "test.parquet").to_pylist()
    assert len(rows) == 40 and rows[0]["prompt"] == PROBLEMS[0].question and rows[0]["confidence"] == -1.0
    assert {(r["problem_id"], r["sample"]): r["completion"] for r in rows} == texts(store)


# --- a server's replies -------------------------------------------------------------------------------------------


def replies(engine, judge, concurrency=4):
    return Replies(engine, judge, Sampling(max_tokens=50), seed=7, concurrency=concurrency, timeout_s=5.0)


def by_seed(request):
    return f"<answer>{request.seed % 3 + 1}</answer>"


def test_replies_do_not_depend_on_what_was_asked_before(tmp_path):
    (tmp_path / "whole").mkdir(), (tmp_path / "broken").mkdir()
    expected = sample(tmp_path / "whole", replies(ScriptedEngine(by_seed), Judge()))

    class Killed(Exception):
        pass

    starts = 0
    while starts < 50:
        count, starts = 0, starts + 1

        def dies(request):
            nonlocal count
            count += 1
            return Killed() if count == 9 else by_seed(request)

        try:
            store = sample(tmp_path / "broken", replies(ScriptedEngine(dies), Judge()))
            break
        except Killed:
            continue
    assert 4 <= starts < 50
    assert texts(store) == texts(expected) and store.done == expected.done
    seeds = {seed_of(7, "test", p.id, s) for p in PROBLEMS for s in range(4)}
    assert len(seeds) == 40 and all(0 <= seed < 2**31 for seed in seeds)


def test_a_judge_that_is_down_makes_errors_that_are_left_out_and_counted(tmp_path):
    judge = Judge()
    judge.failing = True
    store = sample(tmp_path, replies(ScriptedEngine(by_seed), judge))
    found = scores({p.id: [store.done["test", p.id, s] for s in range(4)] for p in PROBLEMS})
    assert found["errors"] == 40 and found["excluded"] == 10 and "pass@1" not in found


def test_a_refused_or_late_request_is_an_error_of_its_own(tmp_path):
    def reply(request):
        text = request.messages[-1]["content"]
        if "p1?" in text:
            return BadRequest("the prompt does not fit")
        return TimeoutError("too late") if "p2?" in text else by_seed(request)

    judge = Judge()
    store = sample(tmp_path, replies(ScriptedEngine(reply), judge))
    assert Counter(row["finish_reason"] for row in store.done.values()) == {"stop": 32, "error": 8}
    assert {name for name, _ in judge.seen} == {p.id for p in PROBLEMS} - {"p1", "p2"}
    found = scores({p.id: [store.done["test", p.id, s] for s in range(4)] for p in PROBLEMS})
    assert found["errors"] == 8 and found["excluded"] == 2 and found["tokens"] == 1.0


def test_a_server_that_is_gone_stops_the_run_and_nothing_is_lost(tmp_path):
    count = 0

    def reply(request):
        nonlocal count
        count += 1
        return by_seed(request) if count <= 6 else EngineError("connection refused")

    with pytest.raises(ServiceFailure, match="scripted does not answer: connection refused"):
        sample(tmp_path, replies(ScriptedEngine(reply), Judge(), concurrency=1))
    assert len(SampleStore(tmp_path, PLAN).done) == 6


def test_a_reply_that_breaks_off_is_asked_for_again(tmp_path):
    count = 0

    def reply(request):
        nonlocal count
        count += 1
        broken = Script("half a reply", failure=EngineError("broke off"), fail_after=1)
        return broken if count % 2 else by_seed(request)

    store = sample(tmp_path, replies(ScriptedEngine(reply), Judge(), concurrency=1))
    assert len(store.done) == 40 and all(row["status"] != "error" for row in store.done.values())


@pytest.mark.parametrize("text,reason,expected", [
    ("<answer>7", "stop", "<answer>7</answer>"),
    ("<answer>7</answer>", "stop", "<answer>7</answer>"),
    ("<answer>7", "length", "<answer>7"),
    ("it is 7", "stop", "it is 7"),
    ("<answer>6</answer> no, <answer>7", "stop", "<answer>6</answer> no, <answer>7</answer>"),
])
def test_the_stop_marker_comes_back_where_a_tag_is_open(text, reason, expected):
    assert with_stop(text, reason, ["</answer>"]) == expected


def test_the_plan_in_the_file_is_json(tmp_path):
    SampleStore(tmp_path, {"suites": {"a": (1, 2)}}).close()
    assert json.loads((tmp_path / "samples.jsonl").read_text()) == {"plan": {"suites": {"a": [1, 2]}}}
    SampleStore(tmp_path, {"suites": {"a": (1, 2)}}).close()  # a tuple is the list that it is stored as
