"""A cluster on paper against numbers computed by hand, and: what is advised does fit."""

from __future__ import annotations

import re

import pytest

import main
from conf.errors import UserError
from conf.load import load, names
from conf.models import folder_stats, known_stats
from conf.plan import GIB, model_stats
from conf.scale import (
    H100,
    concurrency,
    estimate,
    fill,
    generation_seconds,
    iteration_seconds,
    learning_seconds,
    memory_by_part,
    publication_seconds,
)
from conf.scale_report import advice, cluster_plan, step_seconds

B32 = known_stats("Qwen/Qwen2.5-32B")
P32 = 32_763_876_352
PUBLISHED = {  # parameters as the hub's model cards and safetensors indexes count them
    "0.5": 494_032_768, "1.5": 1_543_714_304, "3": 3_085_938_688, "7": 7_615_616_512,
    "14": 14_770_033_664, "32": P32, "72": 72_706_203_648,
}


def cluster(*words: str):
    return load(["recipe=k2think_rl", *words])


# --- models by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size,params", PUBLISHED.items())
def test_the_count_of_a_known_model_is_the_published_one(size, params):
    assert known_stats(f"Qwen/Qwen2.5-{size}B-Instruct").params == params


@pytest.mark.parametrize("name,known", [
    ("Qwen/Qwen2.5-Math-7B", True), ("runs/Qwen2.5-32B-sft", True), ("runs/Qwen2.5-32B-context_16k", True),
    ("Qwen/Qwen2.5-31B", False), ("Qwen/Qwen3-32B", False), ("assets/starter", False), ("Qwen/Qwen2.5-7Billion", False),
])
def test_names_that_tell_a_size(name, known):
    assert (known_stats(name) is not None) == known


def test_a_folder_goes_before_its_name(tmp_path):
    assert model_stats(load(["model.path=Qwen/Qwen2.5-0.5B"])).params == PUBLISHED["0.5"]
    assert folder_stats(tmp_path) is None
    assert model_stats(load([])).params < 2e6


def test_sizes_by_hand():
    assert B32.kv_bytes_per_token == 2 * 2 * 64 * 8 * 128 == 262_144
    assert B32.lora_params(32) == 64 * 32 * (2 * 10_240 + 2 * 6_144 + 3 * 32_768) == 268_435_456
    # one token: 64 inputs of 5120 and one layer's 6 x 5120 + 2 x 1024 + 4 x 27648 values, and two rows of logits
    assert B32.activation_bytes(1, True) == 2 * (64 * 5120 + 143_360) + 8 * 152_064
    assert B32.activation_bytes(1, False) == 2 * 64 * 143_360 + 8 * 152_064


# --- the division of GPUs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words,gpus,engines,learners", [
    ("ray.placement=colocated", 64, 8, 64),
    ("ray.placement=auto", 64, 8, 64),  # on-policy they take turns
    ("ray.placement=split engine.count=8 learner.world_size=64", 128, 8, 64),
    ("ray.placement=split engine.count=8 learner.world_size=64", 256, 16, 128),
    ("ray.placement=split engine.count=1 learner.world_size=24", 64, 2, 48),
    ("ray.placement=split engine.count=1 learner.world_size=1", 16, 1, 8),
])
def test_engines_and_learners_take_all_gpus(words, gpus, engines, learners):
    cfg = cluster("ray.gpus=128", *words.split())
    if "split" in words:  # loading has filled 128 already: begin again from the proportion asked for
        asked = dict(word.split("=") for word in words.split())
        cfg.engine.count, cfg.learner.world_size = int(asked["engine.count"]), int(asked["learner.world_size"])
    fill(cfg, gpus)
    assert (cfg.engine.count, cfg.learner.world_size) == (engines, learners)
    fill(cfg, gpus)
    assert (cfg.engine.count, cfg.learner.world_size) == (engines, learners), "filled twice is filled once"


@pytest.mark.parametrize("word,says", [
    ("ray.gpus=12", "use ray.gpus=8 or a multiple"),
    ("ray.gpus=8 ray.placement=split", "use ray.gpus=16 or more"),
])
def test_a_number_that_does_not_divide_is_refused(word, says):
    with pytest.raises(UserError, match=says):
        cluster(*word.split())


# --- memory and time by hand --------------------------------------------------------------------------------------


def test_memory_of_a_gpu_by_hand():
    cfg = cluster("ray.gpus=64")
    memory, host = memory_by_part(cfg, B32, H100)
    head, tokens = 152_064 * 5120, 98_304 // 8
    expected = {
        "learner: weights": 4 * P32 / 64, "learner: gradients": 4 * P32 / 64, "learner: optimizer": 8 * P32 / 64,
        "learner: gathered layers": 2 * 3 * head + 6 * head,  # the head is larger than a layer's 0.49 B
        "learner: activations": B32.activation_bytes(tokens, True),
        "engine: weights": 2 * P32 / 8, "engine: KV cache": 0.45 * 81_559 * 2**20 - 2 * P32 / 8 - 3 * GIB,
        "engine: work": 3 * GIB, "context": 2 * GIB,
    }
    assert memory == pytest.approx(expected)
    assert host == pytest.approx(12 * P32 / 64 + 2 * P32 / 8), "the copy that is written as a checkpoint"
    assert estimate(cfg, B32, 64).used == pytest.approx(sum(expected.values()))


def test_offload_moves_the_shares_to_the_host_and_adapters_have_none_but_their_own():
    memory, host = memory_by_part(cluster("ray.gpus=64", "learner.offload=true"), B32, H100)
    assert host == pytest.approx((16 + 12) * P32 / 64 + 2 * P32 / 8)
    assert memory["learner: weights"] == memory["learner: optimizer"] == 0
    memory, _ = memory_by_part(cluster("ray.gpus=64", "model.lora_rank=32"), B32, H100)
    assert memory["learner: optimizer"] == pytest.approx(8 * 268_435_456 / 64)
    assert memory["learner: weights"] == pytest.approx(4 * (P32 + 268_435_456) / 64)


def test_apart_the_fuller_gpu_counts():
    cfg = cluster("ray.gpus=128", "ray.placement=split")
    one = estimate(cfg, B32, 128)
    learner = sum(v for n, v in one.memory.items() if n.startswith("learner"))
    engine = sum(v for n, v in one.memory.items() if n.startswith("engine"))
    assert one.used == pytest.approx(2 * GIB + max(learner, engine)) and not one.colocated


def test_decoding_one_answer_is_bound_by_reading_the_weights():
    cfg = cluster("engine.tensor_parallel=1", "ray.gpus=128")
    assert iteration_seconds(cfg, B32, 1, 0, H100) == pytest.approx(2 * P32 / 3.35e12 / 0.6)  # 32.6 ms
    # 10,000 sequences of no context are bound by compute
    assert iteration_seconds(cfg, B32, 10_000, 0, H100) == pytest.approx(2 * P32 * 10_000 / 989.4e12 / 0.6)
    cfg.engine.tensor_parallel = 8  # two all-reduces in each of 64 layers, 2 x 7/8 of 2 x 5120 bytes
    reduces = 2 * 64 * 1.75 * 2 * 5120 / 450e9
    context = 1000 * 262_144
    assert iteration_seconds(cfg, B32, 1, 1000, H100) == pytest.approx(
        (2 * P32 + context) / 8 / 3.35e12 / 0.6 + reduces)


def test_the_cache_bounds_the_answers_in_flight():
    cfg = cluster("ray.gpus=64")
    mean = 512 + 0.4 * 45_056
    cache = memory_by_part(cfg, B32, H100)[0]["engine: KV cache"]
    assert concurrency(cfg, B32, cache) == int(cache * 8 / (262_144 * mean))
    assert concurrency(cfg, B32, 100 * cache) == 512  # engine.max_num_seqs
    cfg.engine.count = 4096
    assert concurrency(cfg, B32, 100 * cache) == 2  # 512 x 16 answers over 4096 engines


def test_a_step_is_not_shorter_than_its_longest_answer():
    cfg = cluster("ray.gpus=64", "rl.groups=8", "rl.group_size=2", "rl.updates_per_step=1")
    alone = iteration_seconds(cfg, B32, 1, 512 + 45_056 / 2, H100)
    assert generation_seconds(cfg, B32, 2, H100) == pytest.approx(45_056 * alone)


def test_learning_by_hand():
    words = ("ray.gpus=64", "rl.updates_per_step=1")
    mean = 512 + 0.4 * 45_056
    forward = 2 * P32 + 2 * 64 * 5120 * mean
    expected = 512 * 16 * mean * forward * 4 / (64 * 989.4e12 * 0.4)  # forward, forward again, backward twice as much
    assert learning_seconds(cluster(*words), B32, H100) == pytest.approx(expected)
    assert learning_seconds(cluster(*words, "rl.kl_coef=0.001"), B32, H100) == pytest.approx(expected * 5 / 4)
    assert learning_seconds(cluster("ray.gpus=64"), B32, H100) == pytest.approx(expected * 5 / 4)  # old logprobs
    assert learning_seconds(cluster(*words, "model.lora_rank=8"), B32, H100) == pytest.approx(expected * 3 / 4)


def test_tiny_micro_batches_are_bound_by_fsdps_traffic():
    cfg = cluster("ray.gpus=64", "rl.groups=8", "rl.group_size=8", "rl.updates_per_step=8", "sampling.max_tokens=1024",
                  "curriculum.min_budget=0", "curriculum.order=shuffled")
    assert learning_seconds(cfg, B32, H100) == pytest.approx(8 * (3 * 2 * P32 + 4 * P32) * 63 / 64 / 50e9)


def test_publication_by_hand():
    assert publication_seconds(cluster("ray.gpus=64"), B32, H100) == pytest.approx((2 * P32 + 2 * P32 / 8) / 50e9)
    assert publication_seconds(cluster("ray.gpus=8"), B32, H100) == pytest.approx((2 * P32 + 2 * P32 / 8) / 450e9)


def test_more_gpus_are_faster_and_emptier():
    few, many = (estimate(cluster(f"ray.gpus={n}"), B32, n) for n in (64, 256))
    assert many.used < few.used
    assert all(many.seconds[part] <= few.seconds[part] for part in few.seconds)
    assert few.bottleneck == "generation"


def test_asynchronous_engines_and_learners_overlap():
    cfg = cluster("ray.placement=split")
    e = estimate(cfg, B32, 128)
    assert step_seconds(cfg, e) == pytest.approx(sum(e.seconds.values()))
    cfg.rl.staleness = 1
    s = e.seconds
    assert step_seconds(cfg, e) == pytest.approx(max(s["generation"], s["learning"]) + s["publication"])


# --- what is printed and refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", names("recipes"))
def test_every_recipe_has_a_dry_run(recipe, capsys):
    assert main.main(["--dry-run", f"recipe={recipe}"]) == 0
    out = capsys.readouterr().out
    if load([f"recipe={recipe}"]).ray.gpus:
        for word in ("bottleneck", "engine: KV cache", "publication", " 64 ", " 256", "TFLOP/s"):
            assert word in out


def test_the_published_recipe_prints_three_sizes_and_says_what_8_gpus_would_need():
    text = cluster_plan(cluster())
    assert re.search(r"^GPUs +8 +64 +128 +256$", text, re.M)
    assert re.search(r"^8 GPUs do not fit: .* GiB wanted on a GPU, 79\.6 there; would fit: learner\.offload=true",
                     text, re.M)
    assert text.endswith("ray.gpus=128 fits")


def test_a_layout_that_cannot_fit_is_refused_with_what_would(capsys):
    assert main.main(["--dry-run", "recipe=k2think_rl", "ray.gpus=8"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "do not fit on ray.gpus=8 H100" in err and "would fit: learner.offload=true" in err


@pytest.mark.parametrize("words", [
    "ray.gpus=8", "ray.gpus=64 learner.gradient_checkpointing=false", "ray.gpus=64 engine.gpu_memory=0.9",
    "ray.gpus=16 engine.tensor_parallel=2", "ray.gpus=64 learner.micro_tokens=400000",
    "ray.gpus=8 model.path=Qwen/Qwen2.5-72B", "ray.gpus=64 engine.gpu_memory=0.13",
])
def test_what_is_advised_does_fit(words):
    cfg = cluster(*words.split())
    with pytest.raises(UserError, match="do not fit on ray.gpus"):
        cluster_plan(cfg)
    advised = advice(cfg, model_stats(cfg), cfg.ray.gpus)
    found = re.findall(r"(?:: |, or )([^,]+)", advised)
    assert advised.startswith("would fit: ") and found
    for combination in found:
        assert "fits" in cluster_plan(cluster(*words.split(), *combination.split(" and ")))


def test_where_nothing_helps_a_smaller_model_is_advised():
    cfg = cluster("ray.gpus=8", "model.path=Qwen/Qwen2.5-72B", "engine.max_model_len=2000000",
                  "learner.micro_tokens=2000000")
    assert "use a smaller one" in advice(cfg, model_stats(cfg), 8)


def test_a_model_of_unknown_size_is_refused():
    with pytest.raises(UserError, match="its name tells no size"):
        cluster_plan(cluster("model.path=Org/Name"))


@pytest.mark.parametrize("words,says", [
    ("learner.ulysses=2", "learner.remove_padding=true and model.attn=flash_attention_2"),
    ("ray.gpus=8 model.device=cpu", "use model.device=cuda or ray.gpus=0"),
    ("curriculum.easy=0", "use data.source=files"),
])
def test_mistakes_across_keys(words, says):
    with pytest.raises(UserError, match=re.escape(says)):
        load(words.split())
