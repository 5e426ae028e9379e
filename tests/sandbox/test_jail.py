"""What model-written code cannot do in the jail, what it still can, and that it leaves nothing behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.sandbox import backends, process, syscalls
from actors.sandbox.jail import Jail, WeakerSandbox

ROOT = str(Path(__file__).resolve().parents[2])
HELPERS = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(step):
    try:
        return step()
    except Exception as failure:
        return type(failure).__name__
"""


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    try:
        jail = Jail()
    except WeakerSandbox as refusal:
        pytest.skip(str(refusal))
    with jail:
        yield jail


def output(jail: Jail, code: str, stdin: str = "", timeout_s: float = 8) -> str:
    result = jail.run(HELPERS + code, stdin, timeout_s=timeout_s)
    assert result.status == "ok", (result.status, result.last_error)
    return result.stdout.decode()


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/etc/hostname", "/proc/1/environ", "/proc/self/maps", "/sys/kernel", "/home", "/var", "/dev/kmsg",
     "/dev/shm", ROOT, sys.prefix, "/old"],
)  # fmt: skip
def test_nothing_of_the_machine_is_visible(jail: Jail, path: str) -> None:
    assert output(jail, f"print(attempt(lambda: os.stat({path!r})))") == "FileNotFoundError\n"


def test_only_harmless_devices_exist_and_work(jail: Jail) -> None:
    assert output(jail, "print(*sorted(os.listdir('/dev')))") == "full null random urandom zero\n"
    assert output(jail, "print(len(open('/dev/urandom', 'rb').read(9)), open('/dev/null').read() == '')") == "9 True\n"


def test_only_tmp_is_writable(jail: Jail) -> None:
    code = "for p in ('/', '/usr/lib/', '/lib/', '/dev/', '/tmp/'): print(attempt(lambda: open(p + 'x', 'w').close()))"
    assert output(jail, code).split() == ["OSError"] * 4 + ["None"]
    assert output(jail, "print(os.listdir('/tmp'), os.getcwd())") == "[] /tmp\n"


def test_tmp_is_small(jail: Jail) -> None:
    code = "for i in range(100): open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))"
    result = jail.run(code, timeout_s=8)
    assert result.status == "error" and "No space left" in result.last_error
    assert "File too large" in jail.run("open('x', 'wb').write(bytes(8 << 20))", timeout_s=8).last_error


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mount", "b'tmpfs', b'/tmp', b'tmpfs', 0, 0"), ("umount2", "b'/tmp', 2"), ("pivot_root", "b'/', b'/tmp'"),
        ("chroot", "b'/tmp'"), ("unshare", "0x10000000"), ("setns", "0, 0"), ("fsopen", "b'tmpfs', 0"),
        ("ptrace", "0, 0, 0, 0"), ("process_vm_readv", "1, 0, 0, 0, 0, 0"), ("pidfd_open", "1, 0"),
        ("bpf", "0, 0, 0"), ("userfaultfd", "0"), ("io_uring_setup", "1, 0"), ("perf_event_open", "0, 0, 0, 0, 0"),
        ("keyctl", "0, -3, 0"), ("add_key", "b'user', b'k', b'v', 1, -3"), ("personality", "0x40000"),
        ("setuid", "0"), ("setresuid", "0, 0, 0"), ("setgroups", "0, 0"), ("capset", "0, 0"),
        ("mknod", "b'd', 24576, 0"),
        ("memfd_create", "b'x', 0"), ("execve", "b'/lib', 0, 0"), ("socket", "1, 1, 0"), ("socket", "40, 1, 0"),
        ("shmget", "0, 4096, 896"), ("mq_open", "b'q', 66, 384, 0"), ("setpriority", "0, 0, -5"),
        ("sethostname", "b'x', 1"),
        ("open_by_handle_at", "-100, 0, 0"), ("name_to_handle_at", "-100, b'/', 0, 0, 0"), ("init_module", "0, 0, 0"),
        ("seccomp", "1, 0, 0"), ("socketpair", "2, 1, 0, 0"), ("clone", "0x10000011, 0, 0, 0, 0"),
        ("prctl", "4, 1, 0, 0, 0"), ("ioctl", "0, 0x5412, 0"),
    ],
)  # fmt: skip
def test_calls_beyond_the_allow_list_fail(jail: Jail, name: str, arguments: str) -> None:
    import pyseccomp

    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    assert output(jail, f"print(call({number}, {arguments}))") == "EPERM\n"


def test_the_32_bit_gate_kills(jail: Jail) -> None:
    code = (
        "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('b814000000cd80c3'))\n"  # int 0x80: getpid
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\nprint(f())"
    )
    if os.uname().machine == "x86_64":
        result = jail.run(HELPERS + code, timeout_s=8)
        assert result.status == "error" and result.exit_code == -31 and result.stdout == b""


def test_a_run_is_nobody_in_namespaces_of_its_own(jail: Jail) -> None:
    code = "print(os.getpid(), os.getuid(), os.getgid(), os.getgroups(), os.uname().nodename, os.getresuid())"
    assert output(jail, code) == "2 1000 1000 [] sandbox (1000, 1000, 1000)\n"


def test_loopback_and_abstract_sockets_are_out_of_reach(jail: Jail) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0raythink-test")
        local.listen()
        code = (
            "import socket\n"
            f"print(attempt(lambda: socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)))\n"
            "print(attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0raythink-test')))"
        )
        assert output(jail, code) == "PermissionError\nPermissionError\n"


def test_without_the_filter_the_namespaces_still_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> bytes:
        raise OSError("libseccomp is not available")

    monkeypatch.setattr(syscalls, "allow_list", refused)
    with pytest.raises(WeakerSandbox, match=r"seccomp \(libseccomp is not available\).*sandbox.allow_weaker=true"):
        Jail()
    with Jail(allow_weaker=True) as weaker, socket.create_server(("127.0.0.1", 0)) as server:
        if set(weaker.missing) != {"seccomp"}:
            pytest.skip(f"more than the filter is missing: {weaker.missing}")
        code = (
            "import socket\n"
            f"print(attempt(lambda: socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)))\n"
            "print(call(165, b'tmpfs', b'/tmp', b'tmpfs', 0, 0), call(170, b'x', 1), call(161, b'/tmp'))\n"
            "print(attempt(lambda: os.setuid(0)), attempt(lambda: os.kill(1, 9)), os.getppid())\n"
        )
        assert output(weaker, code).split() == ["OSError", "EPERM", "EPERM", "EPERM", "OSError", "None", "1"]


@pytest.mark.parametrize("code", ["os.kill(-1, 9)", "os.kill(0, 9)", "os.killpg(os.getpgrp(), 9)", "os.kill(1, 9)"])
def test_signals_stay_inside(jail: Jail, code: str) -> None:
    zygote = jail._zygote.process.pid
    jail.run(f"import os\n{code}", timeout_s=5)
    assert jail.run(f"import os\nos.kill({zygote}, 0)", timeout_s=5).last_error.startswith("ProcessLookupError")
    assert jail.run("print(1)", timeout_s=5).stdout == b"1\n" and jail._zygote.process.pid == zygote


def test_processes_are_counted_and_all_end(jail: Jail) -> None:
    code = (
        "import time\nn = 0\ntry:\n    while n < 500:\n        if os.fork() == 0:\n            os.setsid()\n"
        "            time.sleep(60)\n        n += 1\nexcept BlockingIOError:\n    print(n)"
    )
    assert 10 < int(output(jail, code)) < 64
    assert _descendants(jail._zygote.process.pid) == []


def test_children_that_allocate_together_are_bounded(jail: Jail) -> None:
    if "cgroup memory" in jail.missing:
        pytest.skip(jail.missing["cgroup memory"])
    code = (
        "import os, time\nfor i in range(4):\n    if os.fork() == 0:\n        x = bytearray(90 << 20)\n"
        "        time.sleep(0.5)\n        os._exit(0)\nprint(sum(os.wait()[1] == 9 for i in range(4)))"
    )
    result = jail.run(code, timeout_s=20, memory_mb=128)
    assert result.status == "ok" and int(result.stdout) >= 1, result
    assert jail.run("print(1)", timeout_s=5).stdout == b"1\n"


def test_ordinary_programs_work(jail: Jail) -> None:
    assert (
        output(jail, "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    print(1)\nasyncio.run(f())")
        == "1\n"
    )
    code = (
        "import threading\nthreading.stack_size(1 << 26)\nsys.setrecursionlimit(1 << 25)\n"
        "def f(n): return n and 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(50000)))\nt.start(); t.join()"
    )
    assert jail.run(HELPERS + code, timeout_s=8, memory_mb=512).stdout == b"50000\n"
    code = (
        "import tempfile, shutil, hashlib, decimal, sqlite3, uuid, zlib, ssl, time\n"
        "with tempfile.NamedTemporaryFile() as f:\n    f.write(b'x'); f.flush(); shutil.copy2(f.name, 'copy')\n"
        "print(open('copy').read(), hashlib.sha256(b'').hexdigest()[:4])\n"
        "print(sqlite3.connect('db').execute('select 7').fetchone())"
    )
    assert output(jail, code) == "x e3b0\n(7,)\n"
    code = "import concurrent.futures as c\nwith c.ThreadPoolExecutor(4) as p: print(sum(p.map(int, range(5))))"
    assert output(jail, code) == "10\n"


def test_nothing_is_left_behind() -> None:
    def state() -> tuple[str, list[str], list[str]]:
        mounts = Path("/proc/self/mountinfo").read_text()
        groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/raythink-{os.getpid()}-*")]
        folders = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("raythink-run-")]
        return mounts, groups, folders

    before = state()
    jail = Jail(allow_weaker=True)
    zygote = jail._zygote.process
    jail.run("import os, time\nopen('f', 'w').write('x')\nif os.fork() == 0:\n    time.sleep(60)", timeout_s=5)
    jail.run("while True: pass", timeout_s=0.3)
    assert _descendants(zygote.pid) == []
    jail.close()
    assert zygote.poll() is not None and state()[:2] == before[:2]
    assert set(state()[2]) <= set(before[2])


def test_a_killed_host_takes_the_zygote_and_its_run_along() -> None:
    script = (
        "import threading, time\nfrom actors.sandbox.jail import Jail\njail = Jail(allow_weaker=True)\n"
        "threading.Thread(target=jail.run, args=('import time; time.sleep(60)',), kwargs={'timeout_s': 60}).start()\n"
        "time.sleep(0.5)\nprint(jail._zygote.process.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT) as host:
        zygote = int(host.stdout.readline())
        processes = [zygote, *_descendants(zygote)]
        host.kill()
    assert len(processes) >= 2
    for pid in processes:
        _wait_until_gone(pid)


def test_a_machine_without_user_namespaces_is_named_and_refused() -> None:
    script = """
from actors.sandbox.jail import Jail, WeakerSandbox
try:
    Jail()
except WeakerSandbox as refusal:
    print(refusal)
leaves = "import os, time\\nif os.fork() == 0:\\n    os.setsid(); open('f', 'w'); time.sleep(60)"
with Jail(allow_weaker=True) as jail:
    print(jail.run(leaves, timeout_s=5).status, jail.run("import os; print(os.listdir())", timeout_s=5).stdout)
"""
    limited = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "-Urpf", "--mount-proc", "sh", "-c", limited, "sh", sys.executable, "-c", script]
    try:
        told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    except FileNotFoundError:
        pytest.skip("no unshare program")
    assert told.returncode == 0, told.stderr
    assert "pid namespace" in told.stdout and "ok b'[]\\n'" in told.stdout


def test_a_new_zygote_is_held_to_the_same_layers(monkeypatch: pytest.MonkeyPatch, jail: Jail) -> None:
    def refused() -> bytes:
        raise OSError("libseccomp has gone")

    with Jail() as second:
        monkeypatch.setattr(syscalls, "allow_list", refused)
        second._zygote.process.kill()
        with pytest.raises(WeakerSandbox, match="has gone"):
            second.run("print(1)", timeout_s=5)
        monkeypatch.undo()
        assert second.run("print(1)", timeout_s=5).stdout == b"1\n"


def test_backends_fall_back_only_with_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no processes")

    monkeypatch.setattr(backends, "Jail", broken)
    with pytest.raises(WeakerSandbox, match="no processes"):
        backends.Sandbox()
    sandbox = backends.Sandbox(allow_weaker=True)
    assert sandbox.run is process.run and list(sandbox.missing.values()) == ["no processes"]


def test_a_process_has_one_sandbox(jail: Jail) -> None:
    assert backends.shared() is backends.shared(False) is backends.shared(allow_weaker=False)
    assert backends.run("print(1)", timeout_s=5).stdout == b"1\n"
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:  # a forked copy must not talk to its parent's zygote
        os._exit(0 if backends.run("print(2)", timeout_s=20).stdout == b"2\n" else 1)
    assert backends.run("print(3)", timeout_s=5).stdout == b"3\n"


def _descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *_descendants(int(child))]
    return found


def _wait_until_gone(pid: int) -> None:
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")
