"""What stands before the gateway: HAProxy with Ray's configuration, less what nobody asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from actors import watchdog
from deployments import front

CONFIGURATION = """defaults
    mode http
    errorfile 502 {folder}/500.http
    balance leastconn
frontend prometheus
    bind :9101
    mode http
    no log
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend gateway
backend gateway
    server nobody 127.0.0.1:1
listen stats
  bind *:8404
  stats enable
"""


@pytest.fixture(params=["", "/long" * 30])
def variables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv(watchdog.MARK, request.param)  # none, and one too long for a socket's path
    found = front.environment()
    if not found:
        pytest.skip("there is no HAProxy that runs here")
    return found


def test_its_files_have_a_folder_of_their_own(variables):
    folder = Path(variables["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(f"{folder}/{'n' * 56}/admin.sock.4194304.tmp") <= 107  # what HAProxy binds first, then renames
    names = ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_FILE")
    assert {Path(variables[f"RAY_SERVE_HAPROXY_{name}"]).parent for name in names} == {folder}


def test_ray_s_pages_are_left_out_and_the_error_is_openai_s(variables, tmp_path):
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIGURATION.format(port=1234, folder=tmp_path))
    repository = shutil.copytree(front.START.parent, tmp_path / "a clone & more")
    start = [str(repository / front.START.name), "-db", "-f", str(config), "-c"]  # -c: check, do not start
    subprocess.run(start, env={**os.environ, **variables}, check=True, capture_output=True)
    left = config.read_text()
    assert "bind 127.0.0.1:1234" in left and "9101" not in left and "8404" not in left and "server nobody" in left
    head, _, body = (tmp_path / "500.http").read_bytes().partition(b"\r\n\r\n")
    assert b"503 Service Unavailable" in head and b"Retry-After: 1" in head
    assert f"Content-Length: {len(body)}".encode() in head and json.loads(body)["error"]["type"] == "server_error"


def test_the_watchdog_s_folder_is_used_where_there_is_one(monkeypatch):
    monkeypatch.setenv(watchdog.MARK, "/tmp/raythink-12345678")
    monkeypatch.setattr(front, "_haproxy", lambda: "haproxy")
    assert front.environment()["RAY_SERVE_HAPROXY_SOCKET_PATH"] == "/tmp/raythink-12345678/admin.sock"


def test_where_there_is_none_nothing_is_set(monkeypatch):
    monkeypatch.setattr(front, "_haproxy", lambda: None)
    assert front.environment() == {}
