"""Ray clusters of several nodes on this machine, any of which but the first can be lost: for benchmarks.chaos.

`Processes`: raylets side by side (ray.cluster_utils). A lost node's raylet, agents and workers are killed at once.
`Namespaces`: a real `ray start` in a network namespace for each node, joined by a bridge. A lost node goes on running,
but its link is down: nobody is told, packets vanish. The process must have a namespace of its own (`enter`), which
holds the bridge and the first node, so that all of it ends with the process and no other run is in the way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import psutil

from actors import watchdog
from rl.cluster import quiet_environment

# A node that is silent for half a minute is dead: Ray's own settings take twice as long. Eight chances of three seconds
# each, as nodes that share two cores are late without being dead.
HEALTH = {"initial_delay_ms": 10_000, "period_ms": 1_000, "timeout_ms": 3_000, "failure_threshold": 8}
STORE_BYTES = 256 << 20
INSIDE = "RAYTHINK_NAMESPACE"
SUBNET, PORT, BRIDGE = "10.77.0", 6379, "nodes"
MAC = "02:00:00:77:00:01"  # fixed: a bridge takes its lowest port's, which changes under those that know the old one
START_S, END_S = 120.0, 90.0


class Nodes(Protocol):
    """`address` is what `ray.address` takes. `node` is one of `ray.nodes()`."""

    address: str
    how: str

    def lose(self, node: dict[str, Any]) -> None:
        """Take a node away without a word."""

    def bring_back(self) -> None:
        """The lost node, or one in its place. Raises RuntimeError where it does not come."""

    def stop(self) -> None:
        """End all of it. Idempotent."""


def prepare() -> None:
    """What raylets and their workers read from the environment: before any is started."""
    quiet_environment()
    os.environ["RAY_TMPDIR"] = watchdog.start()  # also keeps `ray.init("auto")` of others from finding this cluster
    os.environ |= {f"RAY_health_check_{name}": str(value) for name, value in HEALTH.items()}


class Processes:
    how = "killed"

    def __init__(self, count: int):
        from ray.cluster_utils import Cluster

        prepare()
        self._cluster = Cluster(shutdown_at_exit=False)  # its exit hooks want the main thread
        try:
            self._cluster.add_node(include_dashboard=False, object_store_memory=STORE_BYTES)
            for _ in range(count - 1):
                self.bring_back()
        except BaseException:
            self.stop()
            raise
        self.address = self._cluster.address

    def lose(self, node: dict[str, Any]) -> None:
        lost = next(one for one in self._cluster.worker_nodes if one.node_id == node["NodeID"])
        kill_families([started.process.pid for kind in lost.all_processes.values() for started in kind])
        self._cluster.remove_node(lost, allow_graceful=False)

    def bring_back(self) -> None:
        self._cluster.add_node(object_store_memory=STORE_BYTES)

    def stop(self) -> None:
        for node in list(self._cluster.worker_nodes):
            self._cluster.remove_node(node, allow_graceful=False)
        if self._cluster.head_node is not None:
            self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)


class Namespaces:
    how = "cut off"

    def __init__(self, count: int):
        prepare()
        self.address = f"{SUBNET}.1:{PORT}"
        self._holders: dict[int, subprocess.Popen] = {}  # a process that does nothing but keep a namespace
        self._nodes: dict[int, subprocess.Popen] = {}
        self._lost: dict[str, Any] = {}
        try:
            self._network(count)
            for number in range(1, count + 1):
                self._start(number)
        except BaseException:
            self.stop()
            raise

    def lose(self, node: dict[str, Any]) -> None:
        self._lost = node
        _run("ip", "link", "set", f"node{_number(node)}", "down")

    def bring_back(self) -> None:
        """The link up again. A raylet that Ray has given up finds that out and ends: then `ray start`, as an operator
        or systemd would."""
        import ray

        number = _number(self._lost)
        _run("ip", "link", "set", f"node{number}", "up")
        if any(node["Alive"] and node["NodeID"] == self._lost["NodeID"] for node in ray.nodes()):
            return  # before Ray noticed
        try:
            self._nodes[number].wait(END_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"node {number} did not find in {END_S:.0f} s that it had been given up") from None
        self._start(number)

    def stop(self) -> None:
        started = [*self._nodes.values(), *self._holders.values()]
        kill_families([process.pid for process in started])
        for process in started:
            process.wait()
        if self._nodes:
            _run("ip", "link", "del", BRIDGE)
        self._nodes, self._holders = {}, {}

    def _network(self, count: int) -> None:
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", BRIDGE, "address", MAC, "type", "bridge")
        _up((), BRIDGE, 1)
        for number in range(2, count + 1):
            holder = self._holders[number] = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
            _wait(lambda pid=holder.pid: _namespace(pid) != _namespace(os.getpid()), "a network namespace")
            inside = _inside(holder)
            _run("ip", "link", "add", f"node{number}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            _run("ip", "link", "set", f"node{number}", "master", BRIDGE, "up")
            _run(*inside, "ip", "link", "set", "lo", "up")
            _up(inside, "eth0", number)

    def _start(self, number: int) -> None:
        log = Path(watchdog.start()) / f"node{number}.log"
        first = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        role = [f"--address={self.address}"] if number > 1 else first
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", *role]
        node = [f"--node-ip-address={SUBNET}.{number}", "--num-cpus=1", f"--object-store-memory={STORE_BYTES}"]
        command = [*_inside(self._holders.get(number)), *ray, *node]
        with log.open("wb") as output:
            process = self._nodes[number] = subprocess.Popen(command, stdout=output, stderr=output)

        def started() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"node {number} ended while it started: {log.read_text()[-500:]}")
            return "Ray runtime started" in log.read_text()

        _wait(started, f"node {number}")


def enter() -> str:
    """Go on as the same command in a network namespace of its own; why that cannot be, in a sentence, where it cannot.
    "" where this is that namespace already."""
    if os.environ.get(INSIDE):
        return ""
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            return f"--cut needs `{tool}` to make network namespaces: install {package}"
    command = ["unshare", "--net", "ip", "link", "add", BRIDGE, "type", "bridge"]
    tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode:
        return f"--cut needs root and network namespaces with bridges ({tried.stderr.strip()}): run it as root, or " \
               "use --nodes alone, where a node is killed"
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--net", sys.executable, "-m", "benchmarks.chaos", *sys.argv[1:]])


def kill_families(pids: list[int]) -> None:
    """SIGKILL to processes and all below them, parents first, so that none is started again."""
    family: list[psutil.Process] = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:  # ended already, and those below it are found below others
            continue
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _number(node: dict[str, Any]) -> int:
    return int(node["NodeManagerAddress"].rpartition(".")[2])


def _inside(holder: subprocess.Popen | None) -> tuple[str, ...]:
    return ("nsenter", "-t", str(holder.pid), "-n") if holder else ()


def _up(inside: tuple[str, ...], device: str, number: int) -> None:
    """A device with the node's address, and a default route, without which libraries find no address of their own."""
    _run(*inside, "ip", "addr", "add", f"{SUBNET}.{number}/24", "dev", device)
    _run(*inside, "ip", "link", "set", device, "up")
    _run(*inside, "ip", "route", "add", "default", "dev", device)


def _namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def _wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not start within {START_S:.0f} s")
        time.sleep(0.1)


def _run(*words: str) -> None:
    """Raises RuntimeError with what the command said."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
