"""What a configuration deploys: which weights, which engines; and whose checkpoints are followed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from actors.engine.chat import EngineError
from actors.engine.speculative import acceptance, speculative_config
from conf.errors import UserError
from conf.load import load
from deployments import app
from deployments.command import Mistake
from deployments.follow import check_same_shapes, newest, shapes
from deployments.graph import gateway_settings, make_plan
from deployments.services import current

STARTER = Path(__file__).resolve().parents[2] / "assets" / "starter"


def checkpoint(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / f"step_{step}" / "hf"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def solver(*words: str):
    return make_plan(load(["mode=serve", *words]), cuda=False).engines["solver"]


def test_the_newest_checkpoint_is_the_highest_step(tmp_path):
    assert newest(tmp_path) is None
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    (checkpoint(tmp_path, 11) / "config.json").unlink()  # not whole
    (tmp_path / "checkpoints" / ".step_12" / "hf").mkdir(parents=True)
    found = newest(tmp_path)
    assert (found.version, found.folder) == (10, tmp_path / "checkpoints" / "step_10" / "hf")


def test_a_link_to_a_run_is_followed_anew(tmp_path):
    for name, step in (("one", 1), ("two", 2)):
        checkpoint(tmp_path / name, step)
    link = tmp_path / "latest"
    for name, step in (("one", 1), ("two", 2)):
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        assert newest(link).version == step


def test_shapes_come_from_the_headers_and_a_torn_file_is_told(tmp_path):
    found = shapes(STARTER)
    config = json.loads((STARTER / "config.json").read_text())
    assert found["model.embed_tokens.weight"] == (config["vocab_size"], config["hidden_size"])
    file = next(STARTER.glob("*.safetensors"))
    (tmp_path / file.name).write_bytes(file.read_bytes()[:100])
    with pytest.raises(EngineError, match="cannot be read"):
        shapes(tmp_path)
    with pytest.raises(EngineError, match="no safetensors"):
        shapes(tmp_path / "none")


def test_weights_of_another_model_are_refused_by_name():
    check_same_shapes({"a": (1,)}, {"a": (1,)})
    for other in ({"a": (2,)}, {}, {"a": (1,), "b": (1,)}):
        with pytest.raises(EngineError, match="of another model: [ab] differs"):
            check_same_shapes({"a": (1,)}, other)


def test_without_a_run_the_starter_is_served_else_the_newest_run(tmp_path):
    spec = solver(f"run.dir={tmp_path}")
    assert (Path(spec.vllm.model_path), spec.version) == (STARTER, 0)
    folder = checkpoint(tmp_path / "mine", 140)
    (tmp_path / "latest").symlink_to("mine")
    spec = solver(f"run.dir={tmp_path}")
    assert (Path(spec.vllm.model_path), spec.version) == (folder, 140)
    copy = shutil.copytree(STARTER, tmp_path / "other")
    assert solver(f"run.dir={tmp_path}", f"model.path={copy}").vllm.model_path == str(copy)


def test_a_run_is_followed_from_its_newest_checkpoint_or_from_the_start(tmp_path):
    spec = solver(f"serve.follow={tmp_path}")
    assert (Path(spec.vllm.model_path), spec.version, spec.follow) == (STARTER, 0, str(tmp_path))
    folder = checkpoint(tmp_path, 5)
    assert (solver(f"serve.follow={tmp_path}").vllm.model_path, 5) == (str(folder), 5)
    with pytest.raises(UserError, match="serve.follow=.* is no run folder"):
        solver(f"serve.follow={tmp_path}/none")


def test_a_replica_that_starts_later_begins_with_the_newest_checkpoint(tmp_path):
    first = solver(f"serve.follow={tmp_path}")
    assert current(first) == first
    folder = checkpoint(tmp_path, 5)
    later = current(first)
    assert (Path(later.vllm.model_path), later.version, later.follow) == (folder, 5, first.follow)
    assert current(solver(f"run.dir={tmp_path}")).version == 0


def test_planner_and_judge_may_be_other_engines(tmp_path):
    words = [f"run.dir={tmp_path}", "serve.planner=http://127.0.0.1:9/v1#big", "serve.judge=cerebras#qwen"]
    engines = make_plan(load(["mode=serve", *words]), cuda=False).engines
    assert {role: (e.kind, e.name, e.url) for role, e in engines.items() if role != "solver"} == {
        "planner": ("openai", "big", "http://127.0.0.1:9/v1"), "judge": ("cerebras", "qwen", "")}
    with pytest.raises(UserError, match="serve.judge=big names no engine: write serve.judge=http"):
        make_plan(load(["mode=serve", "serve.judge=big"]), cuda=False)


def test_remote_solvers_need_their_address():
    plan = make_plan(load(["recipe=serve_cerebras"]), cuda=False)
    assert (plan.engines["solver"].kind, plan.context) == ("cerebras", None)
    with pytest.raises(UserError, match="needs engine.url"):
        solver("engine.kind=openai", "model.path=gpt")
    assert solver("engine.kind=openai", "model.path=gpt", "engine.url=http://h/v1").url == "http://h/v1"


def test_limits_are_keys_and_a_candidate_may_take_half_the_context():
    words = ["serve.requests_per_minute=7", "serve.concurrent=3", "serve.capacity=9", "serve.deadline_s=42"]
    made = gateway_settings(load(["mode=serve", *words]), 256)
    limits, replies = made.limits, made.replies
    assert (limits.requests_per_minute, limits.concurrent_per_key, limits.capacity, limits.max_waiting) == (7, 3, 9, 4)
    assert (replies.default_max_tokens, replies.max_tokens, replies.timeout_s) == (128, 256, 42)
    assert gateway_settings(load(["mode=serve"]), None).replies.default_max_tokens == 8192
    assert gateway_settings(load(["mode=serve", "serve.max_tokens=9000"]), 256).replies.default_max_tokens == 256
    with pytest.raises(UserError, match="serve.capacity=0 is too small"):
        load(["mode=serve", "serve.capacity=0"])


def test_a_mistake_under_the_serve_command_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(Mistake, match="recipe=nope: no such recipe") as caught:
        app({"recipe": "nope"})
    assert isinstance(caught.value, UserError) and caught.value.exit_code == 2
    caught.value.show()
    assert capsys.readouterr().err.count("\n") == 1


def test_the_clusters_yaml_names_what_the_application_has():
    told = yaml.safe_load((STARTER.parents[1] / "deployments" / "cluster.yaml").read_text())
    (application,) = told["applications"]
    assert application["import_path"] == "deployments:app"
    names = [deployment["name"] for deployment in application["deployments"]]
    assert names == ["gateway", "planner", "verifier", "solver-engine"]
    make_plan(load(["mode=serve", *(f"{key}={value}" for key, value in application["args"].items())]), cuda=False)
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(told)


@pytest.mark.parametrize(("text", "config"), [
    ("", None),
    ("ngram", {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 2, "prompt_lookup_max": 4}),
    ("draft:a/b", {"method": "draft_model", "num_speculative_tokens": 3, "model": "a/b"}),
    ("eagle:a/b", {"method": "eagle", "num_speculative_tokens": 3, "model": "a/b"}),
    ("mtp", {"method": "mtp", "num_speculative_tokens": 1}),
    ("suffix", {"method": "suffix", "num_speculative_tokens": 8, "suffix_decoding_max_spec_factor": 2.0}),
])
def test_speculation_in_vllms_words(text, config):
    assert speculative_config(text) == config


@pytest.mark.parametrize("text", ["medusa", "draft", "eagle:", "ngram:model"])
def test_wrong_speculation_names_the_way_out(text):
    with pytest.raises(UserError, match=r"engine\.speculative=.*(use|write) engine\.speculative="):
        speculative_config(text)
    with pytest.raises(UserError, match=r"engine\.speculative="):
        solver(f"engine.speculative={text}")


def test_acceptance_counts_the_models_own_token():
    counters = {"num_drafts": 10, "num_draft_tokens": 50, "num_accepted_tokens": 20}
    assert acceptance(counters) == {"acceptance_rate": 0.4, "acceptance_length": 3.0}
    assert acceptance({}) == {"acceptance_rate": 0.0, "acceptance_length": 1.0}
