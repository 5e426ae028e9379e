"""The GPU benchmark's arithmetic and its refusals; the loop that it drives is the trainer's own."""

from __future__ import annotations

import pytest

from benchmarks import gpu_train
from conf.models import known_stats
from conf.schema import Config

HALF_B = known_stats("Qwen2.5-0.5B")


def test_flops_of_learning_by_hand():
    # 6 x 494,032,768 x 1000, and in 24 layers of 896: 6 x 24 x 896 x 1000^2
    assert gpu_train.flops(HALF_B, [1000]) == 6 * 494_032_768 * 1000 + 6 * 24 * 896 * 1_000_000
    assert gpu_train.flops(HALF_B, [500, 500]) == 6 * 494_032_768 * 1000 + 6 * 24 * 896 * 500_000


def test_figures_are_medians_after_the_warm_up():
    def step(generate: float, learn: float) -> dict[str, float]:
        return {"tokens/generated": 1000, "time/generate": generate, "time/learn": learn, "time/sync": 0.5,
                "time/step": generate + learn + 0.5}

    metrics = [step(100, 100), step(100, 100), step(1, 2), step(2, 4), step(4, 8)]
    found = gpu_train.figures(metrics, [[600, 400]] * 5, HALF_B, 1e12, learners=2)
    assert found["generated_tokens_per_s"] == 500 and found["learnt_tokens_per_s"] == 250
    assert found["mfu"] == pytest.approx(gpu_train.flops(HALF_B, [600, 400]) / 4 / 2e12)
    assert (found["publication_s"], found["step_s"], found["steps"]) == (0.5, 6.5, 3)
    assert gpu_train.figures(metrics, [[1]] * 5, HALF_B, None, 1)["mfu"] is None


def test_without_a_gpu_it_says_what_to_do(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_train.main([]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "needs a CUDA GPU" in err and "--tiny" in err
    assert gpu_train.main(["--tiny", "--steps=2"]) == 2
    assert "use --steps=3" in capsys.readouterr().err


def test_a_tiny_model_is_written_as_the_configuration_wants_it(tmp_path):
    stats = gpu_train.make_model(tmp_path, gpu_train.TINY, 256)
    assert stats.params == 870_528 and (tmp_path / "chat_template.jinja").is_file()
    cfg = gpu_train.configuration(tmp_path, 3, tiny=True)
    assert (cfg.model.path, cfg.rl.steps, cfg.rl.filter_groups) == (str(tmp_path), 3, False)


def test_the_gpu_configuration_loads(tmp_path):
    cfg = gpu_train.configuration(tmp_path, 20, tiny=False)
    assert isinstance(cfg, Config) and cfg.model.device == "cuda" and cfg.data.source == "starter"
