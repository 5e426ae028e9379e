"""bubblewrap (where it is installed) and a SandboxFusion server (one that speaks its protocol, here)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from actors.sandbox.backends import Sandbox
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.fusion import Fusion
from actors.sandbox.jail import WeakerSandbox
from actors.sandbox.process import interpreter
from conf.errors import UserError


class FusionServer(BaseHTTPRequestHandler):
    """POST /run_code as SandboxFusion answers it, without its isolation: for programs of these tests only."""

    broken: str | None = None

    def do_POST(self) -> None:  # noqa: N802 (the name is http.server's)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/run_code" and body["language"] == "python"
        answer = json.dumps(self.broken_answer() if self.broken else self.run(body)).encode()
        self.send_response(500 if self.broken == "http" else 200)
        self.end_headers()
        self.wfile.write(answer)

    def broken_answer(self) -> dict[str, object]:
        return {"status": "SandboxError", "message": "no pod is free", "run_result": None, "files": {}}

    def run(self, body: dict[str, object]) -> dict[str, object]:
        with tempfile.TemporaryDirectory() as folder:
            command = [interpreter(), "-c", body["code"]]
            options = {"capture_output": True, "text": True, "cwd": folder, "timeout": body["run_timeout"]}
            try:
                ended = subprocess.run(command, input=body["stdin"], **options)
            except subprocess.TimeoutExpired:
                run = {"status": "TimeLimitExceeded", "execution_time": body["run_timeout"], "return_code": None}
                return {"status": "Failed", "message": "", "run_result": run, "files": {}}
            files = {
                path: base64.b64encode((Path(folder) / path).read_bytes()).decode() for path in body["fetch_files"]
            }
        run = {"status": "Finished", "execution_time": 0.1, "return_code": ended.returncode,
               "stdout": ended.stdout, "stderr": ended.stderr}  # fmt: skip
        return {"status": "Failed" if ended.returncode else "Success", "message": "", "run_result": run, "files": files}

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FusionServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_fusion_server_runs_programs_calls_and_tests(url: str) -> None:
    fusion = Fusion(url)
    result = fusion.run("print(input()[::-1])", "abc", timeout_s=9)
    assert (result.status, result.exit_code, result.stdout) == ("ok", 0, b"cba\n")
    result = fusion.run("1 / 0", timeout_s=9)
    assert (result.status, result.exit_code, result.last_error) == ("error", 1, "ZeroDivisionError: division by zero")
    result = fusion.run("def f(x):\n    print('noise')\n    return (x,)", timeout_s=9, function="f", args=[[1], ["a"]])
    assert result.returned == {0: [1], 1: ["a"]} and result.stdout == b"noise\nnoise\n"
    result = fusion.run("x = 2", timeout_s=9, tests="__record__(0, x)")
    assert result.returned == {0: 2} and result.nonce_ok
    assert fusion.run("while True: pass", timeout_s=0.5).status == "timeout"
    assert fusion.run("print('x' * 1000)", timeout_s=9, output_limit=100).status == "output_limit"


@pytest.mark.parametrize("broken", ["http", "sandbox"])
def test_the_servers_failure_is_no_result(url: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fusion = Fusion(url)
    monkeypatch.setattr(FusionServer, "broken", broken)
    with pytest.raises(OSError, match="SandboxFusion server"):
        fusion.run("print(1)", timeout_s=2)
    with pytest.raises(UserError, match="start the server"):
        Sandbox(backend="fusion", url=url)


def test_unknown_backends_are_named() -> None:
    with pytest.raises(UserError, match="did you mean bubblewrap"):
        Sandbox(backend="bublewrap")


def test_bubblewrap_has_to_be_there() -> None:
    with pytest.raises(OSError, match="install bubblewrap"):
        Bubblewrap(program="no-such-bwrap")


@pytest.fixture(scope="module")
def bubblewrap() -> Bubblewrap:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return Bubblewrap(allow_weaker=True)


def test_bubblewrap_runs_and_hides(bubblewrap: Bubblewrap) -> None:
    code = "import os\nprint(os.getuid(), sorted(os.listdir('/dev')), os.path.exists('/etc/passwd'), input())"
    result = bubblewrap.run(code, "in", timeout_s=9)
    assert result.stdout == b"1000 ['full', 'null', 'random', 'urandom', 'zero'] False in\n", result
    assert bubblewrap.run("open('/x', 'w')", timeout_s=9).last_error.startswith("OSError: [Errno 30]")
    assert bubblewrap.run("import os; os.kill(os.getpid(), 15)", timeout_s=9).exit_code == -15
    assert bubblewrap.run("while True: pass", timeout_s=1).status == "timeout"
    assert bubblewrap.run("def f(x): return x", timeout_s=9, function="f", args=[[3]]).returned == {0: 3}
    assert bubblewrap.run("import socket; socket.socket()", timeout_s=9).last_error.startswith("PermissionError")


def test_bubblewrap_says_what_it_lacks(bubblewrap: Bubblewrap) -> None:
    lacking = [layer for layer in bubblewrap.missing if not layer.startswith("cgroup")]
    if lacking:
        with pytest.raises(WeakerSandbox, match=lacking[0]):
            Bubblewrap()
