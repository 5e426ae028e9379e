"""Learners of other numbers and kinds, on the real starter: two that share every weight equal one that has them all,
checkpoints go from two ranks to one and back, adapters and packed sequences compute what whole weights and padding do.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from actors.verl_engine import EngineSettings
from rl.objective import ObjectiveSettings, policy_loss
from rl.packing import token_batch

STARTER = str(Path(__file__).resolve().parents[2] / "assets" / "starter")
ON_POLICY = partial(policy_loss, ObjectiveSettings(horizon=64))
WITH_KL = partial(policy_loss, ObjectiveSettings(horizon=64, kl_coef=0.5))


def start(settings: EngineSettings, world_size: int) -> list:
    import ray

    from actors.learner import CONCURRENCY, Learner

    class Gated(Learner):
        """Writes checkpoints once nothing named `closed` lies in their folder."""

        def write(self, folder: str) -> None:
            while (Path(folder) / "closed").exists():
                time.sleep(0.005)
            super().write(folder)

    options = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
    gated = ray.remote(concurrency_groups=CONCURRENCY)(Gated)
    learners = [gated.options(**options).remote(f"scale-{rank}", rank, world_size, settings, 1)
                for rank in range(world_size)]
    address, port = ray.get(learners[0].rendezvous.remote())
    return learners, [learner.start.remote(address, port) for learner in learners]


@pytest.fixture(scope="module")
def learners(live):
    """`one` has all weights, `two` share each tensor, `adapters` train LoRA on packed sequences."""
    import ray

    common = {"lr": 3e-4, "schedule": "cosine", "total_steps": 20, "weight_decay": 0.1}
    wanted = {
        "one": (EngineSettings(STARTER, reference=True, **common), 1),
        "two": (EngineSettings(STARTER, reference=True, shard=True, **common), 2),
        "adapters": (EngineSettings(STARTER, lora_rank=4, lora_alpha=8, remove_padding=True, **common), 1),
    }
    found = {name: start(*what) for name, what in wanted.items()}
    ray.get([call for _, calls in found.values() for call in calls], timeout=300)
    yield {name: actors for name, (actors, _) in found.items()}
    for actors, _ in found.values():
        for actor in actors:
            ray.kill(actor)


def rows(seed: int, count: int = 12, group: int = 4) -> list[dict]:
    """Sequences of random tokens in groups that share a prompt, with advantages and an engine's logprobs."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(count):
        if i % group == 0:
            prompt = rng.integers(5, 600, rng.integers(4, 30))
        answer = rng.integers(5, 600, rng.integers(3, 40))
        mask = np.concatenate([np.zeros(len(prompt)), np.ones(len(answer))]).astype(np.float32)
        result.append({
            "group": i // group, "tokens": np.concatenate([prompt, answer]).astype(np.int32), "mask": mask,
            "advantages": mask * np.float32(rng.normal()), "rollout_logprobs": mask * np.float32(-6.0),
        })
    return result


def call(actors: list, method: str, *arguments) -> list:
    import ray

    return ray.get([getattr(actor, method).remote(*arguments) for actor in actors], timeout=180)


def update(actors: list, sequences: list[dict], loss=ON_POLICY) -> dict[str, float]:
    counts = {"tokens": float(sum(s["mask"].sum() for s in sequences)), "sequences": float(len(sequences))}
    return call(actors, "update", token_batch(sequences, 400, len(actors), 128), loss, counts)[0]


def logprobs(actors: list, sequences: list[dict], reference: bool = False) -> list[np.ndarray]:
    shares = call(actors, "logprobs", token_batch(sequences, 400, len(actors), 0), reference)
    found = {index: values for share in shares for index, values in share.items()}
    return [found[i] for i in range(len(sequences))]


def weights(actors: list) -> dict[str, np.ndarray]:
    return call(actors, "weights")[0]


def farthest(one, other) -> float:
    keys = one.keys() if isinstance(one, dict) else range(len(one))
    return max(float(np.abs(one[k] - other[k]).max()) for k in keys)


def test_two_ranks_that_share_every_weight_equal_one_and_checkpoints_go_from_two_to_one_and_back(learners, tmp_path):
    one, two = learners["one"], learners["two"]
    for step in range(3):
        a, b = update(one, rows(step)), update(two, rows(step))
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["lr"] == b["lr"]
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
    assert farthest(weights(one), weights(two)) < 1e-5

    call(two, "save", str(tmp_path / "two"))
    assert {p.name for p in (tmp_path / "two" / "state").iterdir()} > {".metadata", "rank_0.pt", "rank_1.pt"}
    kept, after = weights(two), [update(two, rows(9)), update(two, rows(10))]
    ended = weights(two)
    assert farthest(kept, ended) > 1e-4, "the two updates must have moved the weights"

    call(two, "restore", str(tmp_path / "two"))  # the same number of ranks: bit for bit
    assert farthest(weights(two), kept) == 0.0
    again = [update(two, rows(9)), update(two, rows(10))]
    assert [x["loss"] for x in again] == [x["loss"] for x in after] and farthest(weights(two), ended) == 0.0

    call(one, "restore", str(tmp_path / "two"))  # from two to one: moments and schedule came along
    assert farthest(weights(one), kept) == 0.0
    continued = [update(one, rows(9)), update(one, rows(10))]
    assert [x["lr"] for x in continued] == [x["lr"] for x in after]
    assert farthest(weights(one), ended) < 1e-5

    call(one, "save", str(tmp_path / "one"))
    kept = weights(one)
    call(two, "restore", str(tmp_path / "one"))  # and back
    assert farthest(weights(two), kept) == 0.0
    a, b = update(one, rows(11)), update(two, rows(11))
    assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5) and a["lr"] == b["lr"]
    assert farthest(weights(one), weights(two)) < 1e-5


def write(actors: list, folder: Path) -> list:
    from actors.learner import WRITING

    return [actor.write.options(concurrency_group=WRITING).remote(str(folder)) for actor in actors]


@pytest.mark.parametrize("kind", ["one", "two"])
def test_a_checkpoint_is_written_while_training_goes_on_and_is_of_the_step_it_was_taken_at(learners, tmp_path, kind):
    import ray

    actors, whole, beside = learners[kind], tmp_path / "whole", tmp_path / "beside"
    update(actors, rows(60))
    call(actors, "save", str(whole))
    beside.mkdir()
    (beside / "closed").touch()
    call(actors, "snapshot")
    writing = write(actors, beside)
    after = [update(actors, rows(61))["loss"]]
    assert ray.wait(writing, timeout=0)[0] == [], "a step was taken while the write had yet to end"
    (beside / "closed").unlink()
    after += [update(actors, rows(62 + i))["loss"] for i in range(2)]  # the collectives of both at once
    ray.get(writing, timeout=60)
    ended = weights(actors)

    files = {p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and p.name != ".metadata"}
    assert {str(p) for p in files} > {"hf/model.safetensors", "state/__0_0.distcp", "state/rank_0.pt"}
    assert [p for p in files if (whole / p).read_bytes() != (beside / p).read_bytes()] == []
    call(actors, "restore", str(beside))
    assert [update(actors, rows(61 + i))["loss"] for i in range(3)] == after
    assert farthest(weights(actors), ended) == 0.0


@pytest.mark.parametrize("part", ["state", "hf"])
def test_a_checkpoint_that_cannot_be_written_is_told_by_the_ranks_which_go_on(learners, tmp_path, part):
    import ray

    two = learners["two"]
    (tmp_path / part).write_text("in the way")
    call(two, "snapshot")
    with pytest.raises(RuntimeError, match="a snapshot that is not written yet"):
        call(two, "snapshot")
    failed = []
    for writing in write(two, tmp_path):
        try:
            ray.get(writing, timeout=60)
        except OSError as error:
            failed.append(error.cause)
    assert len(failed) == (2 if part == "state" else 1)
    assert "in the way" not in str(failed[0]) and "xists" in str(failed[0]) + type(failed[0]).__name__
    assert np.isfinite(update(two, rows(70))["loss"])
    call(two, "save", str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("kind", ["one", "two"])
def test_the_first_policy_is_kept_beside_the_current_one(live, learners, kind):
    actors, sequences = learners[kind], rows(20)
    first = logprobs([live.fresh_learner()], sequences)
    update(actors, rows(21))
    current = logprobs(actors, sequences)
    assert farthest(current, first) > 1e-3
    assert farthest(logprobs(actors, sequences, True), first) < 1e-5
    assert farthest(logprobs(actors, sequences), current) == 0.0, "the current policy is back"
    for sequence, values in zip(sequences, logprobs(actors, sequences, True)):
        sequence["reference_logprobs"] = values * sequence["mask"]
    tokens = sum(s["mask"].sum() for s in sequences)
    found = update(actors, sequences, WITH_KL)
    ratio = [f.astype(np.float64) - c for f, c in zip(first, current)]
    k3 = [np.minimum(np.exp(np.clip(r, -20, 20)) - 1 - r, 10) for r in ratio]
    expected = sum(float((k * s["mask"]).sum()) for k, s in zip(k3, sequences))
    assert found["reference_kl"] / tokens == pytest.approx(expected / tokens, rel=1e-3)


def test_packed_sequences_have_the_logprobs_of_padded_ones(live, learners):
    """New adapters change nothing, so this learner, which packs, is the starter."""
    sequences = rows(30)
    assert farthest(logprobs(learners["adapters"], sequences, True), logprobs([live.fresh_learner()], sequences)) < 2e-5


def test_adapters_train_publish_as_whole_weights_and_leave_the_base_alone(live, learners, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    actors, sequences = learners["adapters"], rows(40)
    base = weights([live.fresh_learner()])
    first = logprobs([live.fresh_learner()], sequences)
    for step in range(3):
        update(actors, rows(41 + step))
    merged = weights(actors)
    assert merged.keys() == base.keys() and {k: v.shape for k, v in merged.items()} == {
        k: v.shape for k, v in base.items()}
    changed = {name for name in base if np.abs(merged[name] - base[name]).max() > 0}
    assert changed == {name for name in base if "_proj.weight" in name}
    assert farthest(logprobs(actors, sequences, True), first) < 2e-5, "adapters off, it is the first policy"

    current = logprobs(actors, sequences)
    call(actors, "save", str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    for values, sequence in zip(current, sequences):
        ids = torch.tensor(sequence["tokens"].astype(np.int64))[None]
        with torch.no_grad():
            full = torch.log_softmax(model(ids).logits[0, :-1].float(), -1)
        expected = full.gather(-1, ids[0, 1:, None])[:, 0].numpy()
        assert np.abs(values[1:] - expected)[sequence["mask"][1:] > 0].max() < 1e-4

    after = update(actors, rows(50))
    call(actors, "restore", str(tmp_path))
    assert farthest(weights(actors), merged) == 0.0
    assert update(actors, rows(50))["loss"] == after["loss"]
