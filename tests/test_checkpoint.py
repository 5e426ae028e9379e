"""Run folders: a torn checkpoint is never seen, and a run goes on only as it began."""

from __future__ import annotations

import json
import os
import shutil
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest

from conf.errors import UserError
from conf.load import load
from conf.schema import Config, keys
from rl.checkpoint import (
    FREE_ON_RESUME,
    FREE_SECTIONS,
    LAYOUT,
    RunFolder,
    is_unfinished,
    open_run,
    read_json,
    write_json,
)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, resumed=False)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@cache
def loaded(*words: str) -> Config:
    return load(list(words))


def config(root: Path, *words: str) -> Config:
    """As `load` with run.dir=root, without reading the same words again and again."""
    own = {w.partition("=")[0]: w.partition("=")[2] for w in words if w.startswith(("run.name=", "run.resume="))}
    cfg = deepcopy(loaded(*(w for w in words if w.partition("=")[0] not in own)))
    cfg.run.dir, cfg.run.name = str(root), own.get("run.name", "")
    cfg.run.resume = own.get("run.resume", "never")
    return cfg


def save(folder: RunFolder, step: int, keep: int = 10) -> Path:
    aside = folder.new_checkpoint(step)
    (aside / "hf").mkdir()
    (aside / "hf" / "weights").write_text(str(step))
    return folder.commit(aside, step, {"version": step}, keep)


def make_run(root: Path, name: str, *words: str, age: float = 0.0, interrupted: bool | None = None) -> Path:
    """A run's folder, last changed `age` seconds ago; `interrupted` None: it died without a summary."""
    path = open_run(config(root, f"run.name={name}", *words)).path
    if interrupted is not None:
        write_json(path / "summary.json", {"interrupted": interrupted})
    changed = 1_700_000_000 - age
    os.utime(path, (changed, changed))
    return path


# --- checkpoints --------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_there_once_it_is_whole(folder):
    aside = folder.new_checkpoint(3)
    (aside / "weights").write_text("3")
    assert folder.checkpoints() == []
    path = folder.commit(aside, 3, {"version": 2}, keep=2)
    assert folder.checkpoints() == [(3, path)] and path.name == "step_3" and not aside.exists()
    assert (path / "weights").read_text() == "3"
    assert read_json(path / "trainer.json") == {"step": 3, "version": 2}


def test_torn_and_foreign_folders_are_ignored(folder):
    whole = save(folder, 5)
    shutil.copytree(whole, whole.parent / "step_x")
    shutil.copytree(whole, whole.parent / ".step_9.tmp")  # killed between its last file and the rename
    shutil.copytree(whole, whole.parent / "step_7")
    (whole.parent / "step_7" / "trainer.json").unlink()
    (whole.parent / "step_8").write_text("")
    assert folder.checkpoints() == [(5, whole)]


def test_a_failure_while_sealing_leaves_the_older_checkpoints_alone(folder, monkeypatch):
    older = save(folder, 1)
    aside = folder.new_checkpoint(2)

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        folder.commit(aside, 2, {}, keep=1)
    assert folder.checkpoints() == [(1, older)]


def test_what_a_killed_save_left_aside_is_cleared_away(folder):
    (folder.new_checkpoint(2) / "half").write_text("")
    aside = folder.new_checkpoint(2)
    assert list(aside.iterdir()) == []


def test_a_step_saved_again_replaces_its_checkpoint(folder):
    save(folder, 4)
    aside = folder.new_checkpoint(4)
    (aside / "weights").write_text("again")
    path = folder.commit(aside, 4, {"version": 9}, keep=2)
    assert folder.checkpoints() == [(4, path)] and sorted(p.name for p in path.iterdir()) == ["trainer.json", "weights"]


@pytest.mark.parametrize("keep,left", [(2, [10, 20]), (1, [20]), (0, [20]), (9, [2, 9, 10, 20])])
def test_only_the_newest_checkpoints_are_kept(folder, keep, left):
    for step in (2, 9, 10, 20):  # as numbers: as text 9 would be the newest
        save(folder, step, keep)
    assert [step for step, _ in folder.checkpoints()] == left
    assert len(list((folder.path / "checkpoints").iterdir())) == len(left)


# --- files --------------------------------------------------------------------------------------------------------


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"steps": 1})
    with pytest.raises(TypeError):
        write_json(path, {"steps": 2, "bad": object()})
    assert read_json(path) == {"steps": 1}


def test_a_missing_file_is_nothing_and_a_corrupt_one_a_mistake(tmp_path):
    assert read_json(tmp_path / "no.json") is None
    for content in (b"{", b"", b"\xff\xfe"):
        (tmp_path / "torn.json").write_bytes(content)
        with pytest.raises(UserError, match=r"torn\.json cannot be read \(.*\): remove it, or start anew"):
            read_json(tmp_path / "torn.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)


def test_the_newest_run_is_linked(root):
    for name in ("a", "b", "b"):
        path = root / name
        path.mkdir(parents=True, exist_ok=True)
        RunFolder(path, resumed=False).point_latest()
        assert (root / "latest").is_symlink() and (root / "latest").resolve() == path
    assert sorted(p.name for p in root.iterdir()) == ["a", "b", "latest"]
    assert os.readlink(root / "latest") == "b"  # relative: the folder may be moved


def test_a_folder_in_the_way_of_the_link_is_refused(root):
    (root / "latest").mkdir(parents=True)
    (root / "a").mkdir()
    with pytest.raises(UserError, match="latest is in the way .* rename or remove it"):
        RunFolder(root / "a", resumed=False).point_latest()


# --- new runs -----------------------------------------------------------------------------------------------------


def test_a_new_run_keeps_its_configuration(root):
    cfg = config(root, "run.name=mine", "rl.groups=5")
    run = open_run(cfg)
    assert run.path == root / "mine" and not run.resumed
    again = load([f"recipe={run.path}/config.yaml"])
    again.recipe = cfg.recipe
    assert again == cfg


def test_runs_without_a_name_get_one_each(root):
    paths = {open_run(config(root)).path for _ in range(2)}
    assert len(paths) == 2 and all((path / "config.yaml").is_file() for path in paths)


def test_a_taken_name_is_refused_with_both_ways_out(root):
    make_run(root, "mine")
    with pytest.raises(UserError, match=r"run.name=mine is taken .* choose another, .* run.resume=.*/mine"):
        open_run(config(root, "run.name=mine"))


@pytest.mark.parametrize("inside", ["", "/runs"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, inside):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="run.dir=.*file.* cannot be written"):
        open_run(config(Path(f"{tmp_path}/file{inside}")))


# --- resuming -----------------------------------------------------------------------------------------------------


def test_a_run_is_resumed_by_its_path(root):
    path = make_run(root, "mine")
    run = open_run(config(root, f"run.resume={path}"))
    assert run.path == path and run.resumed


@pytest.mark.parametrize("there", [True, False])
def test_a_path_that_is_no_run_is_refused(tmp_path, there):
    if there:
        (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"run.resume=.*/other is not a run's folder \(no config.yaml\)"):
        open_run(config(tmp_path / "runs", f"run.resume={tmp_path}/other"))


def test_auto_resumes_the_newest_unfinished_run_of_the_same_mode(root):
    make_run(root, "oldest", age=300)
    wanted = make_run(root, "wanted", age=200, interrupted=True)
    make_run(root, "tuning", "mode=sft", age=100)  # newer, but another mode
    (root / "not_a_run").mkdir()
    RunFolder(wanted, resumed=False).point_latest()
    assert open_run(config(root, "run.resume=auto")).path == wanted
    assert open_run(config(root, "run.resume=auto", "mode=sft")).path == root / "tuning"


def test_auto_starts_anew_where_all_runs_are_finished(root):
    make_run(root, "older", age=200, interrupted=False)
    make_run(root, "newest", age=100, interrupted=False)
    run = open_run(config(root, "run.resume=auto"))
    assert not run.resumed and run.path.name not in ("older", "newest")


def test_auto_starts_the_first_run(root):
    assert not open_run(config(root, "run.resume=auto")).resumed


def test_auto_with_a_name_resumes_that_run_or_begins_it(root):
    make_run(root, "newer", age=0)
    named = ("run.resume=auto", "run.name=mine")
    first, second = open_run(config(root, *named)), open_run(config(root, *named))
    assert (first.resumed, second.resumed) == (False, True) and first.path == second.path == root / "mine"


def test_auto_passes_over_a_link_to_a_run_that_is_gone(root):
    shutil.rmtree(make_run(root, "gone"))
    (root / "latest").symlink_to("gone")
    assert not open_run(config(root, "run.resume=auto")).resumed


def test_a_run_is_unfinished_until_its_summary_says_otherwise(root):
    path = make_run(root, "mine")
    assert is_unfinished(path)
    write_json(path / "summary.json", {"interrupted": True})
    assert is_unfinished(path)
    write_json(path / "summary.json", {"interrupted": False})
    assert not is_unfinished(path)


def test_a_corrupt_summary_is_a_mistake_with_its_fix(root):
    path = make_run(root, "mine")
    (path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json cannot be read"):
        open_run(config(root, "run.resume=auto"))


@pytest.mark.parametrize("word,saved", [
    ("rl.group_size=4", "rl.group_size=8"),
    ("learner.betas=[0.8,0.9]", r"learner.betas=\[0.9, 0.95\]"),
    ("data.domains=[math]", r"data.domains=\[\]"),
    ("seed=1", "seed=0"),
    ("mode=sft", "mode=train"),
])
def test_other_settings_are_refused_by_name(root, word, saved):
    path = make_run(root, "mine")
    with pytest.raises(UserError, match=rf"mine was begun with other settings \(.*{saved}.*\): give the same ones"):
        open_run(config(root, f"run.resume={path}", word))


def test_many_other_settings_are_not_all_told(root):
    path = make_run(root, "mine")
    words = ("seed=1", "rl.groups=3", "rl.group_size=4", "rl.clip_low=0.1")
    with pytest.raises(UserError) as e:
        open_run(config(root, f"run.resume={path}", *words))
    assert "(seed=0, rl.groups=24, rl.group_size=8, ...)" in str(e.value)


def test_what_the_weights_do_not_depend_on_may_change(root):
    path = make_run(root, "mine", "learner.schedule=constant")
    words = ("rl.steps=500", "run.save_every=3", "ray.dashboard=false", "eval.problems=5", "verify.workers=1")
    assert open_run(config(root, f"run.resume={path}", "learner.schedule=constant", *words)).path == path


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_run_goes_on_with_other_actors(root, schedule):
    kept = f"learner.schedule={schedule}"
    path = make_run(root, "mine", kept)
    words = ("learner.world_size=1", "learner.threads=2", "engine.count=1", "verifier.workers=1",
             "learner.micro_tokens=4096", "ray.gpus=0")
    assert open_run(config(root, f"run.resume={path}", kept, *words)).path == path


def test_a_cosine_keeps_its_last_step(root):
    path = make_run(root, "mine", "learner.schedule=cosine", "rl.steps=140")
    with pytest.raises(UserError, match=r"other settings \(rl.steps=140\)"):
        open_run(config(root, f"run.resume={path}", "learner.schedule=cosine", "rl.steps=500"))


def test_the_free_keys_are_keys():
    assert set(FREE_ON_RESUME) | set(LAYOUT) <= set(keys())
    assert set(FREE_SECTIONS) <= {name.partition(".")[0] for name in keys()}


def test_a_refused_resume_changes_nothing(root):
    path = make_run(root, "mine")
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(UserError):
        open_run(config(root, f"run.resume={path}", "seed=1"))
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    assert json.dumps(sorted(p.name for p in root.iterdir())) == '["mine"]'
