"""The real engine and verifier under the evaluation's waves: cut off five times, the result is the unbroken one's."""

from __future__ import annotations

import asyncio

import pytest

from actors.engine import Sampling
from rl.evaluation.sampling import Batch, Waves, collect
from rl.evaluation.store import SampleStore
from rl.evaluation.suites import load_suites

WAVE, SAMPLES = 4, 3


@pytest.fixture(scope="module")
def problems(live):
    from conf.load import load

    return load_suites(load(["mode=eval", "eval.problems=24", "eval.suites=[starter]"]))[0].problems


def waves(live, **more):
    sampling = Sampling(max_tokens=48, **more)
    return Waves(live.cluster.rollouts, live.cluster.verifiers, sampling, seed=7, problems=WAVE, timeout_s=300)


async def idle(live):
    while (await live.cluster.rollouts[0].status.remote())["running"]:
        await asyncio.sleep(0.02)


class Cut(Exception):
    pass


async def cut_off(live, batch, store):
    """One start that ends in the middle of its second wave, after one more was stored."""
    stored = 0

    async def drive():
        nonlocal stored
        async for rows in waves(live).sample(batch, store.done):
            store.append(rows)
            stored += 1

    task = asyncio.create_task(drive())
    while not stored and not task.done():
        await asyncio.sleep(0)
    for _ in range(200):  # into the wave that follows
        if (await live.cluster.rollouts[0].status.remote())["running"]:
            break
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await idle(live)


def test_five_times_cut_off_is_the_same_as_unbroken(live, problems, tmp_path):
    batch = Batch("starter", problems, SAMPLES)
    (tmp_path / "whole").mkdir(), (tmp_path / "broken").mkdir()

    async def run():
        with SampleStore(tmp_path / "whole", {}) as whole:
            await collect(waves(live), batch, whole, lambda *_: None)
        with SampleStore(tmp_path / "broken", {}) as broken:
            for start in range(5):
                await cut_off(live, batch, broken)
                assert start < len(broken.done) // (WAVE * SAMPLES)
            await collect(waves(live), batch, broken, lambda *_: None)
        return whole, broken

    whole, broken = asyncio.run(run())
    assert len(whole.done) == 24 * SAMPLES
    texts = [{(r["problem_id"], r["sample"]): (r["completion"], r["status"], r["confidence"])
              for r in store.rows("starter")} for store in (whole, broken)]
    assert texts[0] == texts[1]


def test_a_stop_marker_ends_an_answer_and_stays_in_it(live, problems, tmp_path):
    async def run():
        with SampleStore(tmp_path, {}) as store:
            batch = Batch("starter", problems[:WAVE], SAMPLES)
            await collect(waves(live, stop=("</answer>",)), batch, store, lambda *_: None)
        return list(store.rows("starter"))

    rows = asyncio.run(run())
    ended = [r["completion"] for r in rows if r["finish_reason"] == "stop" and "<answer>" in r["completion"]]
    assert ended and all(text.endswith("</answer>") for text in ended)
