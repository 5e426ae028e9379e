from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest

from conf import checks, machine
from conf.errors import UserError
from conf.load import load as load_configuration
from conf.plan import GIB, cpus_at_once, format_plan, gpu_share, model_stats, resource_plan, shortfalls

# --- the resource plan --------------------------------------------------------------------------------------------


def load(words):
    """The starter with one engine, learner and checker process, whatever its recipe says."""
    return load_configuration(["engine.count=1", "learner.world_size=1", "verifier.workers=1", *words])



def write_safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    header = {n: {"dtype": "F32", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.fixture
def model_dir(tmp_path):
    """A folder that holds what a chat model's does, of one billion parameters by its weights' header."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
        "vocab_size": 100}))
    write_safetensors(folder / "model.safetensors", {"a": [1000, 1000, 999], "b": [1000000]})
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return folder


def test_plan_names_the_actors_of_each_mode():
    def actors(*words):
        return [r.actor for r in resource_plan(load(list(words)), 4, 0, 8 * GIB)]

    assert actors() == ["rollout-0", "verifier-0", "learner-0"]
    assert actors("engine.count=2", "mode=eval") == ["rollout-0", "rollout-1", "verifier-0"]
    tuned = ["rollout-0", "verifier-0", "learner-0", "learner-1"]  # an engine validates meanwhile
    assert actors("mode=sft", "learner.world_size=2") == tuned
    assert actors("mode=verify", "verify.input=a", "verify.output=b") == ["checker processes"]


def test_parameters_are_counted_from_the_weights_else_from_the_config(model_dir):
    cfg = load([f"model.path={model_dir}"])
    assert model_stats(cfg).params == 1_000_000_000
    (model_dir / "model.safetensors").write_bytes(b"\xff" * 20)
    # by hand: 2 x (2 x 64 x 64 + 2 x 64 x 64 + 64 + 2 x 64 + 3 x 64 x 128 + 2 x 64) + 2 x 100 x 64 + 64
    assert model_stats(cfg).params == 2 * 41_280 + 12_800 + 64
    (model_dir / "config.json").write_text("[]")
    assert model_stats(cfg) is None


def test_memory_follows_the_model_and_what_does_not_fit_is_said(model_dir):
    cfg = load([f"model.path={model_dir}", "engine.kv_cache_gib=2"])
    rollout, _, learner = rows = resource_plan(cfg, 4, 0, 8 * GIB)
    assert rollout.memory_bytes > 4e9 + 2 * GIB
    assert learner.memory_bytes > 16e9
    small, large = shortfalls(cfg, rows, 4, 0, 8 * GIB), shortfalls(cfg, rows, 4, 0, 64 * GIB)
    assert len(small) == 1 and small[0].startswith("memory:") and "engine.kv_cache_gib" in small[0]
    assert large == []
    assert "does not fit: memory" in format_plan(cfg, rows, 4, 0, 8 * GIB)
    assert format_plan(cfg, rows, 4, 0, 64 * GIB).endswith("fits")


def test_learners_on_gpus_share_weights_and_the_optimizers_state_and_replicas_on_cpus_do_not(model_dir):
    def learner(gpus, *words):
        return resource_plan(load([f"model.path={model_dir}", *words]), 4, gpus, 8 * GIB)[-1]

    alone, both = learner(2).gpu_bytes, learner(2, "learner.world_size=2").gpu_bytes
    assert alone - both == pytest.approx(8e9, rel=0.01)
    assert learner(0).memory_bytes == learner(0, "learner.world_size=2").memory_bytes
    adapters = learner(2, "model.lora_rank=2").gpu_bytes
    assert alone - adapters == pytest.approx(12e9, rel=0.01)  # gradients and moments of the adapters only


def test_on_policy_actors_take_turns_on_the_cpus():
    cfg = load(["engine.threads=2", "verifier.workers=1", "learner.threads=2"])
    rows = resource_plan(cfg, 4, 0, 8 * GIB)
    assert cpus_at_once(cfg, rows) == 2  # the engine; the learner then has its two to itself, and checks are short
    assert shortfalls(cfg, rows, 4, 0, 8 * GIB) == []
    cfg.rl.staleness = 1
    assert cpus_at_once(cfg, rows) == 4
    assert shortfalls(cfg, rows, 3, 0, 8 * GIB)[0].startswith("CPUs: 4 wanted at a time, 3 there")


def test_an_unknown_model_is_said_to_be_unknown():
    cfg = load(["model.path=Org/Name"])
    text = format_plan(cfg, resource_plan(cfg, 4, 0, 8 * GIB), 4, 0, 8 * GIB)
    assert "size known once Org/Name is there" in text and "fits (as far as known)" in text


@pytest.mark.parametrize("words,gpus,share,fits", [
    ("", 1, 0.5, True),
    ("", 2, 1.0, True),
    ("engine.tensor_parallel=2", 2, 0.5, True),
    ("engine.tensor_parallel=2", 1, 1.0, False),
    ("engine.count=3 learner.world_size=2", 4, 0.5, True),
    ("mode=eval", 1, 1.0, True),
])
def test_gpus_are_shared_only_where_there_are_too_few(words, gpus, share, fits):
    cfg = load(["model.device=cuda", *words.split()])
    assert gpu_share(cfg, gpus) == share
    rows = resource_plan(cfg, 16, gpus, 64 * GIB)
    assert (not any(s.startswith("GPUs:") for s in shortfalls(cfg, rows, 16, gpus, 64 * GIB))) == fits


def test_a_shared_card_must_hold_engine_and_learner(model_dir):
    def missing(*words):
        cfg = load([f"model.path={model_dir}", "model.device=cuda", "learner.micro_tokens=1024", *words])
        rows = resource_plan(cfg, 16, 1, 64 * GIB, 40 * GIB)
        return [s for s in shortfalls(cfg, rows, 16, 1, 64 * GIB, 40 * GIB) if s.startswith("GPU memory:")]

    assert missing("engine.gpu_memory=0.85")
    assert not missing("engine.gpu_memory=0.4")
    assert missing("engine.gpu_memory=0.7") and not missing("engine.gpu_memory=0.7", "learner.offload=true")


def test_this_machine_has_cpus_and_memory():
    here = machine.this_machine()
    assert here.cpus >= 1 and here.memory_bytes > 1 << 28


@pytest.mark.parametrize("quota,cpus", [("150000 100000", 2), ("max 100000", 8), ("", 8), ("50000 100000", 1)])
def test_a_containers_quota_limits_the_cpus(tmp_path, monkeypatch, quota, cpus):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)))
    assert machine._cpus() == cpus


def test_a_runs_folder_stands_for_its_newest_whole_checkpoint(tmp_path, model_dir):
    run = tmp_path / "runs" / "first"
    for step, whole in ((9, True), (10, True), (20, False)):
        folder = run / "checkpoints" / f"step_{step}"
        folder.mkdir(parents=True)
        (folder / "hf").symlink_to(model_dir)
        if whole:
            (folder / "trainer.json").write_text("{}")
    assert checks.model_folder(str(run)) == str(run / "checkpoints" / "step_10" / "hf")
    assert checks.model_folder(str(model_dir)) == str(model_dir)
    assert load([f"model.path={run}"]).model.path == checks.model_folder(str(run))
    assert checks.model_folder("") == "" and checks.model_folder("Org/Name") == "Org/Name"
    assert model_stats(load([f"model.path={run}"])).params == 1_000_000_000


# --- checks of folders and ports ----------------------------------------------------------------------------------


def test_a_complete_model_folder_passes(model_dir):
    checks.check_model_dir(str(model_dir))


def spoil(name, text=None):
    def action(folder):
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)
    return action


@pytest.mark.parametrize("action,names_it,offers", [
    (spoil("config.json"), "holds no config.json", "give the folder that holds config.json"),
    (spoil("config.json", "{"), "config.json is not valid JSON", "copy the file anew"),
    (spoil("config.json", "[]"), "config.json is not a JSON object", "copy the file anew"),
    (spoil("model.safetensors"), "holds no weights", "copy them there"),
    (spoil("tokenizer.json"), "holds no tokenizer", "copy the model's tokenizer files"),
    (spoil("tokenizer_config.json"), "has no chat template", "instruct model, or add chat_template.jinja"),
    (spoil("tokenizer_config.json", "{}"), "has no chat template", "instruct model, or add chat_template.jinja"),
])
def test_a_broken_model_folder_is_refused(model_dir, action, names_it, offers):
    action(model_dir)
    with pytest.raises(UserError) as e:
        checks.check_model_dir(str(model_dir))
    assert names_it in str(e.value) and offers in str(e.value) and "\n" not in str(e.value)


def test_a_chat_template_may_lie_in_a_file_or_not_be_needed(model_dir):
    (model_dir / "tokenizer_config.json").unlink()
    checks.check_model_dir(str(model_dir), chat=False)
    (model_dir / "chat_template.jinja").write_text("{{ messages }}")
    checks.check_model_dir(str(model_dir))


def test_a_runs_folder_given_as_model_points_to_the_newest_checkpoint(tmp_path):
    for step in ("step_20", "step_40"):
        (tmp_path / "checkpoints" / step / "hf").mkdir(parents=True)
        (tmp_path / "checkpoints" / step / "hf" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="did you mean model.path=.*step_40/hf"):
        checks.check_model_dir(str(tmp_path))


@pytest.mark.parametrize("path", ["nowhere", "./nowhere", "assets/nowhere", "/nowhere/at/all", "~/nowhere", ""])
def test_a_missing_folder_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="give .*model.path=FOLDER"):
        checks.check_model_dir(path)


def test_a_hub_name_passes_unless_the_hub_is_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    checks.check_model_dir("Org/Name-0.5B")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1 .* give a local folder by model.path=FOLDER"):
        checks.check_model_dir("Org/Name-0.5B")
    cached = tmp_path / "models--Org--Name-0.5B" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text("{}")
    checks.check_model_dir("Org/Name-0.5B")


def test_a_run_folder_is_made_and_left_empty(tmp_path):
    checks.check_run_dir(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("inside", ["", "/below"])
def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path, inside):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written .* run.dir=FOLDER"):
        checks.check_run_dir(str(tmp_path / "file") + inside)


def test_a_port_in_use_is_refused_with_a_free_one():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of 127.0.0.1 is in use: set ray.dashboard_port=(\d+|PORT)"):
            checks.check_port("127.0.0.1", port)
    checks.check_port("127.0.0.1", port)


def test_a_host_of_another_machine_is_refused():
    with pytest.raises(UserError, match="ray.dashboard_host=192.0.2.1 is not an address of this machine"):
        checks.check_port("192.0.2.1", 8265)
