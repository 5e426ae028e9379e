"""python -m benchmarks.sandbox [--rounds N] [--seconds S]: the jail's cost for a run beside what others do.

The same small program (read a line, print a sum; its output is checked each time) through: the jail; a bare
`python -I -c` by subprocess, without any isolation; the same in bubblewrap, if it is installed; and the in-process
check of verl's prime_code, which isolates nothing either. The methods take turns in each round, in random order, so
that a machine that is busy for a while is so for all of them. Figures are medians over rounds; a ratio is the jail's
runs a second divided by the other's. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable

from actors.sandbox.jail import Jail
from actors.sandbox.process import interpreter

PROGRAM = "print(sum(map(int, input().split())))"
STDIN, STDOUT = "1 2 3\n", b"6\n"
TIMEOUT_S = 10.0

Method = Callable[[], None]


def jail_method(jail: Jail) -> Method:
    def run() -> None:
        result = jail.run(PROGRAM, STDIN, timeout_s=TIMEOUT_S)
        assert result.stdout == STDOUT, result

    return run


def command_method(*wrapper: str) -> Method:
    command = [*wrapper, interpreter(), "-I", "-c", PROGRAM]

    def run() -> None:
        done = subprocess.run(command, input=STDIN.encode(), capture_output=True, timeout=TIMEOUT_S, check=True)
        assert done.stdout == STDOUT, done

    return run


def bubblewrap_method() -> Method | None:
    program = shutil.which("bwrap")
    if program is None:
        return None
    return command_method(program, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--tmpfs", "/tmp")


def prime_code_method() -> Method | None:
    try:
        from verl.utils.reward_score.prime_code.utils import check_correctness
    except ImportError as missing:
        print(f"prime_code is left out: {missing}")
        return None

    def run() -> None:
        tests = {"inputs": [STDIN], "outputs": [STDOUT.decode()]}
        outcomes, _ = check_correctness(tests, PROGRAM, timeout=int(TIMEOUT_S), debug=False)
        assert list(outcomes) == [True], outcomes

    return run


def measure(methods: dict[str, Method], rounds: int, seconds: float) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Median runs a second of each method, and the seconds of each of its runs."""
    rates: dict[str, list[float]] = {name: [] for name in methods}
    durations: dict[str, list[float]] = {name: [] for name in methods}
    for run in methods.values():  # once, uncounted: caches, imports
        run()
    for _ in range(rounds):
        for name in random.sample(list(methods), len(methods)):
            began, runs = time.perf_counter(), 0
            while (now := time.perf_counter()) < began + seconds:
                methods[name]()
                durations[name].append(time.perf_counter() - now)
                runs += 1
            rates[name].append(runs / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in rates.items()}, durations


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.9, help="of each method in each round")
    options = parser.parse_args()
    with Jail() as jail:
        made = {"jail": jail_method(jail), "subprocess": command_method(), "bwrap": bubblewrap_method(),
                "prime_code": prime_code_method()}  # fmt: skip
        methods = {name: method for name, method in made.items() if method is not None}
        rates, durations = measure(methods, options.rounds, options.seconds)
    for name, rate in rates.items():
        percentiles = statistics.quantiles(durations[name], n=100)
        print(
            f"{name:12} {rate:8.1f} runs/s   p50 {1e3 * percentiles[49]:6.2f} ms   p99 {1e3 * percentiles[98]:6.2f} ms"
        )
    percentiles = statistics.quantiles(durations["jail"], n=100)
    ratios = {
        f"{name}_ratio": round(rates["jail"] / rates[name], 2) if name in rates else None
        for name in ("subprocess", "prime_code", "bwrap")
    }
    print(json.dumps(ratios | {"p50_ms": round(1e3 * percentiles[49], 2), "p99_ms": round(1e3 * percentiles[98], 2)}))


if __name__ == "__main__":
    main()
