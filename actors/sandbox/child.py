"""What the sandboxed interpreter does: read a request, apply its limits; then execute the model's code, report, end.

Its text is passed to `python -I -S -c` by the process backend, and the zygote imports it before it forks; it is never
imported by the host. It may use nothing outside the standard library, and imports as little of it as it can. The
request (marshal, from the host, hence trusted) is a dict: `code`; `function` and `calls` (argument lists) or None;
`tests` (rewritten assertions) or None; `nonce`; `limits`. Reports are lines of JSON: ["r", index, value],
["x", index, error] or ["n", nonce].
"""

import atexit
import builtins
import gc
import marshal
import os
import resource
import signal
import sys


def read_request(fd):
    """The host's request: everything up to the end of the stream."""
    chunks = []
    while chunk := os.read(fd, 1 << 20):
        chunks.append(chunk)
    os.close(fd)
    return marshal.loads(b"".join(chunks))


def apply_limits(limits):
    """Lower the limits; a hard limit that the machine has set lower stays."""
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, hard if name == "RLIMIT_STACK" else value))


def plain(value, depth=0):
    """Exact built-in types only, each tagged where JSON would blur it: tuples count as lists."""
    kind = type(value)
    if depth > 40:
        raise ValueError("result nested too deeply")
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list or kind is tuple:
        return [plain(item, depth + 1) for item in value]
    if kind is dict:
        return {"dict": [[plain(k, depth + 1), plain(v, depth + 1)] for k, v in value.items()]}
    if kind is set or kind is frozenset:
        return {"set": [plain(item, depth + 1) for item in value]}
    raise TypeError("result of type " + kind.__name__ + " is no plain value")


def is_plain(value):
    try:
        plain(value)
    except Exception:
        return False
    return True


def same(left, right):
    """`==` where no method of the answer's own classes can say yes to a plain value."""
    return is_plain(left) == is_plain(right) and left == right


class Reporter:
    """Writes reports; binds what it needs before the code under test can replace it."""

    def __init__(self, fd):
        import json

        self.fd, self.dumps, self.write = fd, json.dumps, os.write

    def report(self, *line):
        data = (self.dumps(line) + "\n").encode()
        while data:
            data = data[self.write(self.fd, data) :]

    def record(self, index, value):
        try:
            self.report("r", index, plain(value))
        except Exception as failure:
            self.failed(index, failure)

    def failed(self, index, failure):
        self.report("x", index, type(failure).__name__ + ": " + str(failure)[:200])


def call(function, calls, reporter):
    """One report for each argument list."""
    for index, arguments in enumerate(calls):
        try:
            result = function(*arguments)
        except Exception as failure:
            reporter.failed(index, failure)
            continue
        reporter.record(index, result)


def new_main():
    """An empty __main__, as a program finds it."""
    builtins.exit = builtins.quit = sys.exit
    sys.argv = ["solution.py"]
    module = type(sys)("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    return module.__dict__


def execute(request, report_fd, namespace):
    """Run the program; then, if asked, the calls or the tests in its namespace."""
    program = compile(request["code"], "solution.py", "exec")
    if request["function"] is None and request["tests"] is None:
        os.close(report_fd)
        exec(program, namespace)
        return
    reporter = Reporter(report_fd)
    exec(program, namespace)
    if request["tests"] is not None:
        namespace.update(__record__=reporter.record, __same__=same)
        exec(compile(request["tests"], "tests.py", "exec"), namespace)
        reporter.report("n", request["nonce"])
        return
    name = request["function"]
    function = namespace.get(name)
    if function is None and "Solution" in namespace:
        function = getattr(namespace["Solution"](), name)
    if function is None:
        reporter.report("x", 0, "NameError: the answer defines no " + name)
        return
    call(function, request["calls"], reporter)


def exit_code_of(failure):
    """The exit code that the interpreter gives a program which ends by this exception, after saying so on stderr."""
    if isinstance(failure, SystemExit):
        if failure.code is None:
            return 0
        if isinstance(failure.code, int):
            return failure.code & 0xFF if -(1 << 63) <= failure.code < 1 << 63 else 0xFF
        print(failure.code, file=sys.stderr)
        return 1
    traceback = failure.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename not in ("solution.py", "tests.py"):
        traceback = traceback.tb_next
    try:
        sys.excepthook(type(failure), failure.with_traceback(traceback), traceback)
    except BaseException:
        sys.__excepthook__(type(failure), failure, traceback)
    return -signal.SIGINT if isinstance(failure, KeyboardInterrupt) else 1


def finish(code, namespace):
    """End as the interpreter would (threads, atexit, destructors, flush), without taking the whole of it apart.

    Taking it apart would touch every page that a forked child shares with its zygote: more time than most runs need.
    """
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    except BaseException as failure:
        exit_code_of(failure)
    code = flush() or code
    for name in list(namespace):  # destructors run now, and files that were left open are written
        if name != "__builtins__":
            namespace[name] = None
    gc.collect()
    code = flush() or code
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def flush():
    """120, the interpreter's code for a stdout that cannot be flushed, or 0."""
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException:
            code = 120 if stream is sys.stdout else code
    return code


def main(request, report_fd):
    """Never returns."""
    code = 0
    namespace = new_main()
    try:
        execute(request, report_fd, namespace)
    except BaseException as failure:
        code = exit_code_of(failure)
    finish(code, namespace)
