"""mode=eval on a real server over HTTP: the command as it is, with checker processes and a judge; and its mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loopback import KEY, MODEL, Answer, Loopback

from conf.errors import UserError
from conf.load import load
from rl.evaluation import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("RAYTHINK_JUDGE_API_KEY", KEY)


def rows(tmp_path, *truths):
    path = tmp_path / "mine.jsonl"
    made = [{"data_source": "math__mine", "prompt": [{"role": "user", "content": f"What is {t}?"}], "ability": "math",
             "apply_chat_template": True, "reward_model": {"style": "rule", "ground_truth": t},
             "extra_info": {"index": i}} for i, t in enumerate(truths)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def evaluate(tmp_path, server, *words):
    """One start; returns (exit code, the run's folder)."""
    code = run(load(["mode=eval", "engine.kind=openai", f"engine.url={server.url}", f"model.path={MODEL}",
                     f"run.dir={tmp_path}/runs", "run.name=r", "eval.samples=2", "eval.concurrency=1",
                     "eval.stop=[</answer>]", *words]))
    return code, tmp_path / "runs" / "r"


def test_a_server_is_evaluated_killed_and_resumed(tmp_path, server, capsys):
    path = rows(tmp_path, "5", "7")
    word = f"eval.suites=[{path}]"
    server.script(Answer(pieces=("<answer>", "5")), *[Answer(status=400, message="bad luck")], *[
        Answer(status=500, message="out of order", headers={"retry-after": "0"}) for _ in range(18)])
    code, folder = evaluate(tmp_path, server, word)
    assert code == 3 and not (folder / "summary.json").exists()
    assert "go on with: python main.py recipe=" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")

    asked = len(server.requests)
    server.script(Answer(pieces=("<answer>", "6")), Answer(pieces=("<answer>7</answer>",)))
    code, folder = evaluate(tmp_path, server, word, f"run.resume={folder}")
    assert code == 0 and len(server.requests) == asked + 2  # the two that were missing
    summary = json.loads((folder / "summary.json").read_text())
    found = summary["suites"]["mine"]
    assert (found["samples"], found["errors"], found["excluded"]) == (4, 1, 0)
    assert found["pass@1"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["tokens"] == pytest.approx((4 + 4 + 2) / 3)
    assert "bad luck" in (folder / "samples.jsonl").read_text()
    assert (folder / "samples" / "mine.parquet").exists() and "75.0 %" in (folder / "report.html").read_text()

    paths = len(server.paths)
    (folder / "report.html").unlink()
    assert evaluate(tmp_path, server, word, f"run.resume={folder}")[0] == 0
    assert len(server.paths) == paths and (folder / "report.html").exists()  # tables only: nobody is asked

    body = server.requests[0].body
    assert body["stop"] == ["</answer>"] and body["temperature"] == 1.0
    assert len({request.body["seed"] for request in server.requests}) == 4

    with pytest.raises(UserError, match="was begun with another eval.seed"):
        evaluate(tmp_path, server, word, f"run.resume={folder}", "eval.seed=8")


def test_ctrl_c_says_how_to_go_on(tmp_path, server):
    path, runs = rows(tmp_path, *map(str, range(20))), tmp_path / "runs"
    words = [sys.executable, "main.py", "mode=eval", "engine.kind=openai", f"engine.url={server.url}",
             f"model.path={MODEL}", f"run.dir={runs}", "run.name=r", "eval.samples=2", "eval.concurrency=1",
             f"eval.suites=[{path}]"]
    server.script(*[Answer(delay_s=0.05)] * 40)
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stored = runs / "r" / "samples.jsonl"
    deadline = time.monotonic() + 120
    while not stored.exists() or stored.read_text().count("\n") < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in output
    assert f"run.resume={runs}/r" in output.replace("\n", "")
    before = len(server.requests)
    done = subprocess.run([*words, "run.resume=auto"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 40 <= len(server.requests) <= 41 and len(server.requests) > before  # at most the one that was under way
    assert json.loads((runs / "r" / "summary.json").read_text())["suites"]["mine"]["samples"] == 40


def test_a_judge_that_is_down_is_retried_and_then_an_error(tmp_path, server):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(
        {"id": c, "category": c, "messages": [{"role": "user", "content": "Do it."}], "expected": "refuse"}) + "\n"
        for c in ("refusal", "jailbreak")))
    with Loopback() as judge:
        decline = Answer(pieces=("It declines.\nFinal Decision: Refuse",))
        judge.script(decline, decline, *[Answer(status=503, message="down") for _ in range(3)])
        code, folder = evaluate(tmp_path, server, f"eval.safety=[{prompts}]", "eval.samples=1", "verifier.retries=2",
                                f"verifier.judge={judge.url}#{MODEL}", "verifier.workers=1")
        assert code == 0 and len(judge.requests) == 5  # 2 for the first reply, 3 attempts for the second
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["suites"]["safety/refusal"]["pass@1"] == 1.0
    assert summary["suites"]["safety/jailbreak"]["errors"] == 1
    assert "pass@1" not in summary["suites"]["safety/jailbreak"]
    assert summary["safety"]["macro"] == 1.0
    assert summary["safety"]["missing"] == ["robustness", "cybersecurity", "jailbreak"]


def test_the_ablation_runs_on_a_server(tmp_path, server):
    path = rows(tmp_path, "5")
    code, folder = evaluate(tmp_path, server, f"eval.suites=[{path}]", "eval.samples=3", "eval.ablation=true")
    assert code == 0
    assert len(server.requests) == 6  # "What is 5?" is too short for a plan: 3 alone and 3 once more
    arms = json.loads((folder / "summary.json").read_text())["ablation"]["mine"]
    assert list(arms) == ["plain", "+ plan", "+ best of 3", "+ plan + best of 3"]
    assert arms["plain"]["pass@1"] == 0.0 and arms["+ best of 3"]["all_tokens"] == 18


@pytest.mark.parametrize("words,message", [
    (["engine.url=http://127.0.0.1:9/v1"], "the engine cannot be asked: the connection to http://127.0.0.1:9"),
    (["model.path=other"], "has no model 'other'.*check engine.url"),
])
def test_a_server_that_cannot_be_asked_is_one_sentence(tmp_path, server, words, message):
    path = rows(tmp_path, "5")
    with pytest.raises(UserError, match=message):
        evaluate(tmp_path, server, f"eval.suites=[{path}]", *words)
