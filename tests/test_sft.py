"""mode=sft's own parts: the model it starts from, the warm-up, what is kept as best, and settings that contradict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conf.errors import UserError
from conf.load import load
from rl.sft import _check_positions, keep_best, with_warmup
from rl.starting_model import starting_model, template_path, with_template

# No engine, but a tokenizer: transformers takes longer to import than all pure tests take to run.
pytestmark = pytest.mark.engine


# --- the starting model -------------------------------------------------------------------------------------------


def test_a_template_is_put_beside_links_to_the_weights(starter_copy, tmp_path):
    from transformers import AutoTokenizer

    settings = json.loads((starter_copy / "tokenizer_config.json").read_text())
    (starter_copy / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}))
    (starter_copy / "generation_config.json").write_text('{"eos_token_id": 0, "temperature": 0.7}')
    folder = with_template(starter_copy, template_path("am_thinking"), tmp_path / "init")
    assert (folder / "model.safetensors").is_symlink() and (folder / "config.json").is_symlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == template_path("am_thinking").read_text()
    assert tokenizer.eos_token == "<|im_end|>"  # else an engine would go on after the answer
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [tokenizer.eos_token_id, 0], "temperature": 0.7}
    assert with_template(starter_copy, template_path("am_thinking"), folder) == folder  # again, for a resumed run


def test_a_template_of_the_users_own(tmp_path, starter_copy):
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    cfg = load(["mode=sft", f"model.path={starter_copy}", f"sft.template={tmp_path / 'mine.jinja'}"])
    folder = Path(starting_model(cfg, tmp_path / "run"))
    assert (folder / "chat_template.jinja").read_text() == (tmp_path / "mine.jinja").read_text()
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_without_a_template_the_model_is_taken_as_it_is(tmp_path):
    cfg = load(["mode=sft", "model.path=assets/starter"])
    assert starting_model(cfg, tmp_path) == "assets/starter" and not list(tmp_path.iterdir())


def test_a_base_model_needs_a_template(tmp_path, starter_copy):
    (starter_copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        starting_model(load(["mode=sft", f"model.path={starter_copy}"]), tmp_path)
    cfg = load(["mode=sft", f"model.path={starter_copy}", "sft.template=am_thinking"])
    assert (Path(starting_model(cfg, tmp_path)) / "chat_template.jinja").is_file()


def test_templates_that_do_not_exist_or_do_not_fit_are_refused(tmp_path, starter_copy):
    with pytest.raises(UserError, match="sft.template=am_thinkin: no such chat template: use one of am_thinking"):
        template_path("am_thinkin")
    tokenizer = json.loads((starter_copy / "tokenizer.json").read_text())
    renamed = json.dumps(tokenizer).replace("<|im_end|>", "<|other|>")
    (starter_copy / "tokenizer.json").write_text(renamed)
    settings = (starter_copy / "tokenizer_config.json").read_text().replace("<|im_end|>", "<|other|>")
    (starter_copy / "tokenizer_config.json").write_text(settings)
    with pytest.raises(UserError, match=r"has no <\|im_end\|>"):
        with_template(starter_copy, template_path("am_thinking"), tmp_path / "init")


# --- the schedule and the best checkpoint -------------------------------------------------------------------------


@pytest.mark.parametrize("ratio,steps,expected", [("0.05", 1084, 55), ("0.05", 10, 1), ("0", 100, 0), ("0.5", 3, 2)])
def test_the_warm_up_is_a_share_of_the_steps_rounded_up(ratio, steps, expected):
    cfg = load(["mode=sft", f"sft.warmup_ratio={ratio}", "learner.warmup_steps=0"])
    assert with_warmup(cfg, steps).learner.warmup_steps == expected and cfg.learner.warmup_steps == 0


def test_steps_of_warm_up_are_left_as_they_are():
    assert with_warmup(load(["mode=sft", "learner.warmup_steps=7"]), 100).learner.warmup_steps == 7


def test_the_best_policy_outlives_its_checkpoint(tmp_path):
    for step, weights in ((4, "four"), (8, "eight")):
        hf = tmp_path / "checkpoints" / f"step_{step}" / "hf"
        hf.mkdir(parents=True)
        (hf / "model.safetensors").write_text(weights)
        keep_best(tmp_path, hf.parent)
        assert (tmp_path / "best" / "hf" / "model.safetensors").stat().st_nlink == 2  # no second copy
        shutil.rmtree(hf.parent)
        assert (tmp_path / "best" / "hf" / "model.safetensors").read_text() == weights
        assert json.loads((tmp_path / "best" / "step.json").read_text()) == {"step": step}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "checkpoints"]


# --- settings -----------------------------------------------------------------------------------------------------

FILES = ("data=files", "data.train=[a.jsonl]", "model.path=assets/starter")


@pytest.mark.parametrize("words,message", [
    (["sft.epochs=2"], "sft.epochs=2 counts passes through files"),
    ([*FILES, "sft.context=512", "sft.batch_tokens=500"], "use sft.batch_tokens=512 or more"),
    (["sft.warmup_ratio=0.1", "learner.warmup_steps=5"], "set one of them to 0"),
    (["sft.warmup_ratio=1.5", "learner.warmup_steps=0"], "use one below 1"),
    (["sft.packing=true", "model.attn=flash_attention_2", "model.dtype=bfloat16"], "needs learner.remove_padding=true"),
    (["data=files"], "set data.train=[FILE,...]"),
])
def test_settings_that_contradict_each_other(words, message):
    with pytest.raises(UserError) as told:
        load(["mode=sft", *words])
    assert message in str(told.value)


def test_the_published_recipe():
    cfg = load(["recipe=k2think_sft"])
    assert cfg.sft.batch_tokens == 512 * cfg.sft.context == 512 * 32768
    assert (cfg.learner.lr, cfg.learner.schedule, cfg.sft.warmup_ratio, cfg.sft.epochs) == (1e-4, "cosine", 0.05, 2)
    assert cfg.sft.packing and cfg.learner.remove_padding and cfg.learner.gradient_checkpointing
    assert cfg.model.dtype == "bfloat16" and cfg.learner.micro_tokens >= cfg.sft.context


def test_a_context_beyond_the_models_positions_is_refused():
    cfg = load(["mode=sft", *FILES, "sft.context=600", "sft.batch_tokens=600"])
    with pytest.raises(UserError, match="longer than the 512 positions of assets/starter: use sft.context=512"):
        _check_positions(cfg, "assets/starter")
    _check_positions(load(["mode=sft", *FILES]), "assets/starter")


def test_the_report_tells_what_was_left_out_and_which_step_was_best(tmp_path):
    from rl.report.inputs import RunInputs
    from rl.report.page import header

    data = {"dialogues": 75, "left_out": {"longer than 64 tokens": 5, "broken rows": 0}}
    told = dict(header(RunInputs(tmp_path, summary={"best": {"step": 8, "loss": 0.25}, "data": data})))
    assert told["lowest validation loss"] == "0.2500 at step 8"
    assert told["dialogues"] == "75 (5 longer than 64 tokens left out)"
    assert "dialogues" not in dict(header(RunInputs(tmp_path, summary={"best": {}, "data": {}})))
