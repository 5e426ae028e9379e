"""Mistakes in what is asked: one sentence, exit code 2, no traceback, and nothing started for long."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def ask(*words: str, cwd: Path = ROOT) -> str:
    """The one line that `python main.py` prints for a mistake."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words], cwd=cwd, capture_output=True, text=True, timeout=600,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2, (done.returncode, done.stdout[-500:], done.stderr[-1500:])
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("raythink: error: "), done.stderr
    return lines[0]


def test_a_misspelt_key_names_the_closest():
    assert "rl.steps" in ask("rl.stpes=3")


def test_an_unknown_recipe_names_the_closest():
    assert "recipe=starter" in ask("recipe=startr")


def test_a_missing_model_folder(tmp_path):
    assert "model.path" in ask(f"model.path={tmp_path}/none")


def test_a_model_without_a_chat_template(starter_copy):
    (starter_copy / "chat_template.jinja").unlink()
    config = json.loads((starter_copy / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (starter_copy / "tokenizer_config.json").write_text(json.dumps(config))
    assert "chat template" in ask(f"model.path={starter_copy}")


def test_a_broken_row_is_told_by_file_row_and_column(tmp_path):
    good = {
        "data_source": "math__starter",
        "prompt": [{"role": "user", "content": "1+1?"}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "prompt": 7}) + "\n")
    told = ask("data=files", f"data.train=[{path}]", f"data.heldout=[{path}]")
    assert "rows.jsonl" in told and "2" in told and "prompt" in told


@pytest.mark.usefixtures("alone")
def test_an_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert "run.dir" in ask(f"run.dir={tmp_path}/file/runs", "ray.dashboard=false")


def test_a_port_in_use():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert "ray.dashboard_port" in ask(f"ray.dashboard_port={port}")


def test_a_cluster_that_is_not_there():
    assert "ray.address" in ask("ray.address=127.0.0.1:1", "model.device=cpu")
