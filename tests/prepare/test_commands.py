"""mode=prepare as a command: from a hub (one on this machine that speaks the real one's protocol), killed, unreachable.

huggingface_hub reads its settings when it is imported, so all of this is in processes of its own.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import published
import pytest

from rl.problems.am_thinking import REPO, REVISION
from rl.problems.schema import read_rows

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"conversations": [{"from": "human", "value": "2+2?"},
                          {"from": "assistant", "value": "<think>so</think><answer>4</answer>"}]}


class Hub(http.server.BaseHTTPRequestHandler):
    """Two routes of the hub: what a dataset holds at a revision, and its files."""

    repo, commit, folder, asked = "", "", Path(), []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith(f"/api/datasets/{self.repo}"):
            names = [str(p.relative_to(self.folder)) for p in sorted(self.folder.rglob("*")) if p.is_file()]
            body = {"id": self.repo, "sha": self.commit, "siblings": [{"rfilename": name} for name in names]}
            return self.reply(json.dumps(body).encode(), "application/json")
        prefix = f"/datasets/{self.repo}/resolve/{self.commit}/"
        if not self.path.startswith(prefix):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.reply((self.folder / self.path[len(prefix):]).read_bytes(), "application/octet-stream")

    do_HEAD = do_GET

    def reply(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(tmp_path):
    """A function that puts a dataset on a hub of this machine; returns the environment that leads there."""
    servers = []

    def publish(repo: str, commit: str, folder: Path) -> tuple[dict[str, str], list[str]]:
        handler = type("Published", (Hub,), {"repo": repo, "commit": commit, "folder": folder, "asked": []})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{servers[-1].server_address[1]}"
        return {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}, handler.asked

    yield publish
    for server in servers:
        server.shutdown()
        server.server_close()


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "main.py", "mode=prepare", *words], cwd=ROOT, capture_output=True, text=True,
                          timeout=180, env={**os.environ, **environment})


def test_am_thinking_comes_from_the_hub_at_its_revision(hub, tmp_path):
    for name in ("math", "code"):
        (tmp_path / "data").mkdir(exist_ok=True)
        row = {**GOOD, "info": name}
        row["conversations"] = [{**GOOD["conversations"][0], "value": f"2+2 in {name}?"}, GOOD["conversations"][1]]
        (tmp_path / "data" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "data" / "README.md").write_text("# card")
    environment, asked = hub(REPO, REVISION, tmp_path / "data")
    words = ("prepare.source=am_thinking", f"prepare.output={tmp_path}/am")
    done = command(*words, **environment)
    assert done.returncode == 0, done.stderr
    assert [row["subset"] for row in read_rows(tmp_path / "am" / "train.parquet")] == ["code", "math"]
    card = json.loads((tmp_path / "am" / "card.json").read_text())
    assert card["origin"] == [f"{REPO}@{REVISION}"]
    assert any(f"/revision/{REVISION}" in path for path in asked) and not any("README" in path for path in asked)


def test_guru_comes_from_the_hub_and_what_was_fetched_serves_without_it(hub, tmp_path):
    cases = [case for case in published.CASES if case.file.partition("__")[0].endswith(("/table", "/stem"))]
    folder, commit = published.write(tmp_path / "data", cases), "c" * 40
    environment, _ = hub("LLM360/guru-RL-92k", commit, folder)
    done = command("prepare.source=guru", f"prepare.output={tmp_path}/one", **environment)
    assert done.returncode == 0, done.stderr
    assert len(list(read_rows(tmp_path / "one" / "train.parquet"))) == 3
    assert "stem__gpqa_diamond_198" in (tmp_path / "one" / "card.md").read_text()
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    words = ("prepare.source=guru", f"prepare.input=[LLM360/guru-RL-92k@{commit}]", f"prepare.output={tmp_path}/two")
    done = command(*words, **offline)
    assert done.returncode == 0, done.stderr
    assert "going on with the" in done.stdout
    assert list(read_rows(tmp_path / "two" / "train.parquet")) == list(read_rows(tmp_path / "one" / "train.parquet"))


@pytest.mark.parametrize("words,environment,message", [
    (["prepare.source=guru"], {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"},
     "the hub cannot be reached for LLM360/guru-RL-92k"),
    (["prepare.source=am_thinking"], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE=1 keeps the hub out of reach"),
])
def test_a_hub_out_of_reach_names_the_way_by_a_folder(words, environment, message, tmp_path):
    done = command(*words, f"prepare.output={tmp_path}/out", HF_HOME=str(tmp_path), **environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr and "prepare.input=[FOLDER]" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_does_not_exist_is_told(hub, tmp_path):
    environment, _ = hub("someone/else", "d" * 40, tmp_path)
    done = command("prepare.source=files", "prepare.input=[no/such]", f"prepare.output={tmp_path}/out", **environment)
    assert done.returncode == 2 and "the hub has no dataset no/such for you" in done.stderr


@pytest.mark.parametrize("signal_number,code", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_killed_run_leaves_nothing_that_looks_done(signal_number, code, tmp_path):
    """Rows come through a pipe that stays open, so that the run is in the middle whenever the signal arrives."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(json.dumps(GOOD) + "\n")
    os.mkfifo(tmp_path / "b.jsonl")
    (tmp_path / "in" / "b.jsonl").write_text("")
    words = ["prepare.source=am_thinking", f"prepare.input=[{tmp_path}/in]", f"prepare.output={tmp_path}/out"]
    # short sleeps: a signal that comes just before one long call would wait for its end
    program = ("import signal, sys, time, main, rl.prepare.inputs as i; read = i.batches\n"
               "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background shells have it ignored
               "def batches(path, name, skip):\n"
               f"    while name == 'b.jsonl' and open({str(tmp_path / 'b.jsonl')!r}): time.sleep(0.05)\n"
               "    return read(path, name, skip)\n"
               "i.batches = batches; sys.exit(main.main(sys.argv[1:]))")
    process = subprocess.Popen([sys.executable, "-c", program, "mode=prepare", *words], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with open(tmp_path / "b.jsonl", "w"):  # opens as soon as the run waits for b's rows
        process.send_signal(signal_number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code and err == ""
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial" / "steps" / "00000").is_dir()
    if code == 130:
        assert "the same command goes on from there" in out
    done = command(*words)
    assert done.returncode == 0 and "going on after 1 rows" in done.stdout
    assert len(list(read_rows(tmp_path / "out" / "train.parquet"))) == 1 and not (tmp_path / "out.partial").exists()
