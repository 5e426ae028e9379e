"""`python main.py mode=serve` as a user runs it: it answers, follows a run, survives kills, and ends with ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
STARTER = ROOT / "assets" / "starter"
START_S = 600  # shared machines can be ten times slower than idle ones
QUESTION = {"messages": [{"role": "user", "content": "What is 12 + 30?"}], "max_tokens": 96}


class Service:
    def __init__(self, folder: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = folder / "serve.log"
        words = [f"serve.port={self.port}", f"serve.follow={folder / 'run'}", f"run.dir={folder}"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "main.py", "mode=serve", "serve.requests_per_minute=0", *words],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )

    def ask(self, path: str, body: dict | None = None, timeout: float = 240) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode() if body else None,
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)

    def answer(self, **extra) -> dict:
        return self.ask("/v1/chat/completions", {**QUESTION, **extra})

    def leave(self, seconds: float, **extra) -> None:
        """Ask, and hang up before there is an answer."""
        body = json.dumps({**QUESTION, **extra}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            time.sleep(seconds)

    def counter(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def wait(self, condition, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended early:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{what} did not happen:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.2)

    def healthy(self) -> bool:
        try:
            return self.ask("/health", timeout=10) == {"status": "ok"}
        except (urllib.error.URLError, OSError):
            return False

    def replica(self, name: str) -> psutil.Process:
        family = psutil.Process(self.process.pid).children(recursive=True)
        return next(p for p in family if f"raythink:{name}" in " ".join(p.cmdline()))


def disturb(folder: Path) -> None:
    """Other weights than the starter's: its middle layers exchanged."""
    (path,) = folder.glob("*.safetensors")
    swap, moved = {"layers.1.": "layers.2.", "layers.2.": "layers.1."}, {}
    for name, value in load_file(path).items():
        part = next((part for part in swap if part in name), None)
        moved[name.replace(part, swap[part]) if part else name] = value
    save_file(moved, path, {"format": "pt"})


def logprob_of(reply: dict) -> float:
    """Of the whole answer: the weights' own, as the text of other weights may be the same."""
    return sum(token["logprob"] for token in reply["choices"][0]["logprobs"]["content"])


def whole_replies_read_as_others(service: Service) -> None:
    """Detokenized at its end, a reply has the text that it has token by token."""
    for seed in range(5):
        same = {"seed": seed, "reasoning_effort": "low"}
        messages = [service.answer(**same, **more)["choices"][0]["message"] for more in ({}, {"logprobs": True})]
        assert messages[0] == messages[1]


def nothing_else_listens(service: Service) -> None:
    """The proxy before the gateway has the port that was asked for, on loopback, and no page of its own."""
    front = [p for p in psutil.Process(service.process.pid).children(recursive=True) if p.name() == "haproxy"]
    open_at = {c.laddr for p in front for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    assert open_at <= {("127.0.0.1", service.port)}


def hanging_up_ends_the_work(service: Service) -> None:
    many = {"n": 16, "seed": 3, "reasoning_effort": "low"}
    start = service.counter("raythink_solver_generated_tokens")
    service.answer(**many)
    whole = service.counter("raythink_solver_generated_tokens") - start
    service.leave(0.03, **many)
    service.wait(lambda: service.counter("raythink_solver_running") == 0, 60, "the end of what nobody waits for")
    left = service.counter("raythink_solver_generated_tokens") - start - whole
    assert left < whole / 2, "who hangs up ends the work for it"


@pytest.mark.usefixtures("alone")
def test_it_answers_follows_a_run_survives_kills_and_ends(tmp_path):
    (tmp_path / "run").mkdir()
    service = Service(tmp_path)
    family = []
    try:
        service.wait(service.healthy, START_S, "health")
        whole = service.answer(seed=1, raythink={"explain": True})
        assert whole["choices"][0]["message"]["content"] and whole["system_fingerprint"] == "v0"
        assert len(whole["raythink"]["candidates"]) == 3
        assert whole["usage"]["completion_tokens"] >= sum(c["tokens"] for c in whole["raythink"]["candidates"]) > 0

        whole_replies_read_as_others(service)
        nothing_else_listens(service)
        hanging_up_ends_the_work(service)

        greedy = {"temperature": 0, "reasoning_effort": "low", "logprobs": True}
        before = service.answer(**greedy)
        aside = shutil.copytree(STARTER, tmp_path / "aside" / "hf").parent
        disturb(aside / "hf")
        (tmp_path / "run" / "checkpoints").mkdir()
        seen: set[str] = set()

        def swapped() -> bool:
            """Three questions at a time, all the while: none of them may fail."""
            seen.update(reply["system_fingerprint"] for reply in pool.map(lambda _: service.answer(), range(3)))
            return "v7" in seen

        with ThreadPoolExecutor(4) as pool:
            swapped()
            aside.rename(tmp_path / "run" / "checkpoints" / "step_7")
            service.wait(swapped, 120, "the new checkpoint")
            assert seen == {"v0", "v7"}
            after = service.answer(**greedy)
            assert after["system_fingerprint"] == "v7" and abs(logprob_of(after) - logprob_of(before)) > 1e-3
            for name in ("solver-engine", "verifier", "planner", "gateway"):
                running = [] if name == "gateway" else [pool.submit(service.answer) for _ in range(3)]
                victim = service.replica(name)
                victim.kill()
                victim.wait(60)
                for future in running:  # asked before and after: none is lost
                    assert future.result()["choices"][0]["message"]["content"]
                service.wait(service.healthy, 240, f"health after the death of {name}")
                reply = service.answer()  # a new engine begins with the newest checkpoint, not with its first one
                assert reply["choices"][0]["finish_reason"] == "stop" and reply["system_fingerprint"] == "v7"

        family = psutil.Process(service.process.pid).children(recursive=True)
        os.kill(service.process.pid, signal.SIGINT)
        assert service.process.wait(120) == 130
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert "Traceback" not in service.log.read_text()
    finally:
        if service.process.poll() is None:
            service.process.kill()  # its watchdog ends the rest
