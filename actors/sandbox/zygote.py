"""The zygote: a warm, single-threaded interpreter that forks a child for each run. `python -I -S zygote.py FD`.

It never reads or executes anything of a run itself. Orders come over a SOCK_SEQPACKET socket (descriptor FD). The first
is the setup (marshal): what layers to put up; the answer is the account of them. Then, one run at a time: the run's
folder with five descriptors (request, stdin, stdout, stderr, reports) starts a child, the answer is "started" with the
child's pidfd; "end" kills what is left of the run, the answer is its wait status, or why it could not be set up. When
the socket closes, the host has gone: the zygote kills the run and ends. This file runs outside of the package; the
modules beside it are found through sys.path for as long as it takes to load them.
"""

import gc
import marshal
import os
import signal
import socket
import sys

sys.path.append(os.path.dirname(__file__))
import child  # noqa: E402
import kernel  # noqa: E402
import layers  # noqa: E402

sys.path.pop()

FDS = 5
SETUP_BYTES = 1 << 17
# What solutions import most: loading them once here costs nothing in the children.
WARM = """
array bisect collections copy csv datetime decimal fractions functools heapq io itertools json math operator queue
random re statistics string threading time traceback types typing
"""
WARM_CODE = """
import sys
class A:
    def f(self, x, *rest, y=1, **more):
        return [i for i in rest if i] + [f"{x}"]
try:
    A().f(1, 2)
except Exception as e:
    raise
"""


def warm_up():
    """Load what runs need, and compile once: the compiler builds its tables lazily, which each child would repeat."""
    for name in WARM.split():
        __import__(name)
    exec(compile(WARM_CODE, "warm", "exec"), {})
    for name in ("child", "kernel", "layers"):
        sys.modules.pop(name)  # these names are the solution's own
    os.environ.clear()
    gc.collect()
    gc.freeze()


def adopt_descriptors(fds):
    """In the run's own process: 0, 1, 2, the request and the reports are left, and `outcome` until it is closed."""
    request, stdin, stdout, stderr, reports, outcome = (os.dup(fd) for fd in fds)  # out of the way of 0, 1 and 2
    for target, fd in enumerate((stdin, stdout, stderr)):
        os.dup2(fd, target)
    kept = sorted((2, request, reports, outcome, 1 << 16))
    for first, last in zip(kept, kept[1:], strict=False):
        os.closerange(first + 1, last)
    return request, reports, outcome


class Zygote:
    """The layers, the socket, and the run of the moment."""

    def __init__(self, control):
        self.control = control
        setup = marshal.loads(control.recv(SETUP_BYTES))
        os.umask(0o022)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self.layers = layers.Layers(setup)
        warm_up()
        control.send(marshal.dumps({"missing": self.layers.missing, "private_root": self.layers.private_root}))

    def serve(self):
        """Obey until the socket closes. Returns in the runs' own processes only: (request, reports descriptor)."""
        flags = self.layers.flags
        while True:
            order, fds, _, _ = socket.recv_fds(self.control, 4096, FDS)
            if not order:
                os._exit(0)
            outcome, fd = os.pipe()
            fds.append(fd)
            pid = kernel.clone(flags) if flags else os.fork()
            if pid == 0:
                return self.become_run(order.decode(), fds)
            for fd in fds:
                os.close(fd)
            pidfd = os.pidfd_open(pid)
            socket.send_fds(self.control, [b"started"], [pidfd])
            os.close(pidfd)
            order = self.control.recv(64)
            ended = self.end_run(pid, outcome)
            if not order:
                os._exit(0)
            self.control.send(ended)

    def become_run(self, folder, fds):
        """In the child: with namespaces, it stays as their first process, and its own child becomes the run."""
        outcome = fds[-1]
        try:
            self.control.close()
            self.layers.enter(self.layers.flags)
            if self.layers.flags:
                if pid := os.fork():
                    watch(pid, fds)
                os.setsid()
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.chdir(folder)
            request_fd, reports, outcome = adopt_descriptors(fds)
            request = child.read_request(request_fd)
            child.apply_limits(request["limits"])
            self.layers.seal()
            os.close(outcome)
            return request, reports
        except BaseException as failure:  # the machine's fault: it must not look like an end of the run
            os.write(outcome, ("setup failed: " + repr(failure)).encode()[:1000])
            os._exit(1)

    def end_run(self, pid, outcome):
        """Kill the run and whatever it left; returns its wait status, as text, or why it never began."""
        try:
            os.killpg(pid, signal.SIGKILL)  # before it is reaped: until then the id cannot belong to anyone else
        except ProcessLookupError:  # it has not made its session yet
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        self.layers.clean_up()
        said = os.read(
            outcome, 4096
        )  # nothing if the first process was killed; a failed setup comes first if it failed
        os.close(outcome)
        return said or str(status).encode()


def watch(pid, fds):
    """First process of the run's namespaces: reap until the run's main process ends, pass its wait status on, and end.

    Where it is pid 1 of a namespace, its end is the end of every process in it.
    """
    *others, outcome = fds
    for fd in others:
        os.close(fd)
    while True:
        ended, status = os.wait()
        if ended == pid:
            os.write(outcome, str(status).encode())
            os._exit(0)


child.main(*Zygote(socket.socket(fileno=int(sys.argv[1]))).serve())
