"""Tools that know nothing of us, against a real server: lm-eval's chat model, schemathesis over our own OpenAPI.

Each has an environment of its own: `python -m benchmarks.peers.environment lm-eval schemathesis` makes both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from fake_backend import FakeBackend, serving

from benchmarks.peers.environment import LM_EVAL, SCHEMATHESIS, Environment
from deployments.gateway import GatewaySettings
from deployments.limits import LimitSettings

ROOT = Path(__file__).resolve().parents[2]
MANY = GatewaySettings(limits=LimitSettings(requests_per_minute=0, request_burst=1, concurrent_per_key=100))
TASK = """
task: questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question:"], max_gen_toks: 64}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def made(peer: Environment):
    """Skips a test where the peer's environment is not there."""
    name = next(name for name in ("lm-eval", "schemathesis") if name == peer.peer)
    how = f"{peer.folder} is not there: python -m benchmarks.peers.environment {name}"
    return pytest.mark.skipif(not peer.is_ready(ROOT), reason=how)


def run(peer: Environment, folder: Path, *words: str, **variables: str) -> str:
    """What `python -m WORDS` of the environment prints; `folder` is where it may leave files."""
    done = subprocess.run(
        [str(peer.python(ROOT)), "-m", *words],
        capture_output=True, text=True, timeout=300, cwd=folder, env={**os.environ, **variables},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout + done.stderr


@pytest.mark.process
@made(LM_EVAL)
def test_lm_evals_chat_model_gets_an_answer_to_every_question(tmp_path):
    answers = ["It is 42", "It is 42", "It is 43"]  # the backend says 42, whatever it is asked
    rows = [{"question": f"What is {n} times 7?", "answer": answer} for n, answer in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    backend = FakeBackend()
    with serving(backend, MANY) as url:
        run(
            LM_EVAL, tmp_path, "lm_eval", "run", "--model", "local-chat-completions", "--model_args",
            f"model=raythink,base_url={url}/v1/chat/completions,num_concurrent=2,max_retries=2",
            "--tasks", "questions", "--include_path", str(tmp_path), "--apply_chat_template",
            "--output_path", str(tmp_path / "out"),
            HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=str(tmp_path / "hf"), OPENAI_API_KEY="none",
        )  # fmt: skip
    (found,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(found.read_text())["results"]["questions"]["exact_match,none"] == pytest.approx(2 / 3)
    asked = {request.messages[-1]["content"] for request in backend.requests}
    assert asked == {row["question"] for row in rows}
    assert {(r.settings.temperature, r.settings.stop) for r in backend.requests} == {(0.0, ("Question:",))}


@pytest.mark.process
@made(SCHEMATHESIS)
def test_schemathesis_finds_no_error_of_the_server_nor_a_reply_that_the_openapi_does_not_describe(tmp_path):
    with serving(FakeBackend(), MANY) as url:
        told = run(
            SCHEMATHESIS, tmp_path, "schemathesis.cli", "run", f"{url}/openapi.json",
            "--max-examples", "20", "--seed", "1", "--request-timeout", "20", "--no-color",
            # JSON Schema does not say which fields go together; all else that it checks is checked
            "--exclude-checks", "positive_data_acceptance",
        )  # fmt: skip
    assert int(re.search(r"(\d+) generated", told)[1]) > 100 and "failures" not in told, told[-3000:]
