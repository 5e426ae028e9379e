"""Ray's own `serve` command over the cluster's YAML, answering through Cerebras's SDK from a server on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import yaml
from loopback import KEY, Answer, Loopback

from conf.errors import UserError
from deployments import app

ROOT = Path(__file__).resolve().parents[2]
SERVE = Path(sys.executable).parent / "serve"
START_S = 600  # shared machines can be ten times slower than idle ones
MESSAGES = [{"role": "user", "content": "How many pens are 12 pens and 30 pens together?"}]


def configured(folder: Path) -> tuple[Path, int]:
    """The repository's YAML with a free port and another recipe."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = yaml.safe_load((ROOT / "deployments" / "cluster.yaml").read_text())
    told["http_options"]["port"] = port
    told["applications"][0]["args"] = {"recipe": "serve_cerebras", "model.path": "tiny"}
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(told))
    return path, port


def wait_until_healthy(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/health", timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)


def test_without_a_key_it_says_so_before_anything_starts(monkeypatch):
    monkeypatch.delenv("CEREBRAS_API_KEY", raising=False)
    with pytest.raises(UserError, match="export CEREBRAS_API_KEY"):
        app({"recipe": "serve_cerebras"})


@pytest.mark.engine
@pytest.mark.usefixtures("alone")
def test_the_clusters_yaml_answers_over_cerebras_and_ctrl_c_leaves_nothing(tmp_path, server: Loopback):
    path, port = configured(tmp_path)
    log, url = tmp_path / "log", f"http://127.0.0.1:{port}"
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}  # of this process's Ray
    environment = {
        **inherited, "PYTHONPATH": str(ROOT), "CEREBRAS_API_KEY": KEY, "CEREBRAS_BASE_URL": server.root,
        "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(SERVE), "run", str(path)],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    family: list[psutil.Process] = []
    try:
        wait_until_healthy(process, url, log)
        thought = {"reasoning": ("12", "+30"), "reasoning_field": "reasoning"}
        server.script(Answer(("<plan>Add them.</plan>",)), *[Answer(("42",), **thought)] * 3)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as client:
            reply = client.chat.completions.create(
                model="tiny", messages=MESSAGES, extra_body={"raythink": {"explain": True}}
            )
        assert reply.choices[0].message.content == "42" and reply.choices[0].message.reasoning_content == "12+30"
        assert reply.raythink["plan"]["text"] == "Add them." and "agree" in reply.raythink["why"]
        assert "max_completion_tokens" in server.requests[-1].body
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    finally:
        if process.poll() is None:
            driver = psutil.Process(process.pid)
            family = [*driver.children(recursive=True), driver]
        for left in family:
            if left.is_running() and left.status() != psutil.STATUS_ZOMBIE:
                left.kill()
