"""python -m benchmarks.fuzz [--count N] [--coverage-s S]: hostile completions and ground truths, by the ten thousand.

First tests/checkers/test_fuzz.py over every route and profile with N cases (mutations of right answers, and what
hypothesis puts together). Then, where the package atheris is installed, S seconds of coverage-guided fuzzing of the
parsers: no exception may escape but those that a parser documents, and no input may take longer than BUDGET_S of CPU.
atheris is no requirement of this project; an environment of its own with numpy, mpmath, psutil and omegaconf serves.
The last line is JSON: {"cases", "failed", "coverage_runs", "worst_s"}; exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET_S = 2.0
MAX_LENGTH = 4096  # bytes of an input
RESULT = "coverage result: "
SEEDS = [
    r"\boxed{\frac{1}{2}}", r"<think>a</think>\boxed{x \in [0, \infty)}", r"<answer>\begin{pmatrix}1\\4\end{pmatrix}",
    r"\{x \mid x > 2\}", r"\sum_{n=1}^{\infty}\frac{1}{n^2}", r"\int_0^1 x^2\,dx", "1,234.5 cm^2", r"x=1 \text{ or } 2",
    "```python\nprint(1)\n```", r"\lim_{x\to0}\frac{\sin x}{x}", "½ + √2 ≤ π", r"2\pm\sqrt[3]{5}", "A3_{16}", "-3<x<5",
]  # fmt: skip


def parts(data: bytes) -> None:
    """Everything that reads what a model wrote, on one input; half of it stands for a ground truth."""
    from actors.checkers import extract, latex_text, math, values
    from actors.checkers.evaluate import Undefined
    from actors.checkers.expression import ParseError, TooCostly

    text = data.decode("utf-8", "surrogateescape")
    for read in (extract.final_answer, extract.code_block, extract.boxes, extract.fences, math.extract):
        try:
            read(text)
        except extract.NoAnswer:
            continue
    with suppress(ParseError, TooCostly, Undefined, latex_text.Unreadable):  # what it says of what it cannot read
        values.read(latex_text.clean(text))
    half = len(text) // 2
    math.compare(text[:half] or "2", text[half:])


def coverage(seconds: int) -> None:
    """In a process of its own, as atheris never returns: fuzz, with a result line whenever one took longer."""
    import atheris

    with atheris.instrument_imports(include=["actors.checkers"]):
        from actors.checkers import extract, latex_text, math, values  # noqa: F401
    math.affordable = lambda text: False  # math-verify is another's parser, with a budget of its own

    runs, worst = 0, 0.0

    def one(data: bytes) -> None:
        nonlocal runs, worst
        started = time.process_time()
        parts(data)
        taken = time.process_time() - started
        runs += 1
        if taken > worst or runs % 1000 == 0:
            worst = max(worst, taken)
            print(f"{RESULT}{runs} {worst:.3f}", flush=True)
        if taken > BUDGET_S:
            raise AssertionError(f"{taken:.1f} s for {data!r}")

    corpus = Path(os.environ["RAYTHINK_CORPUS"])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed.encode())
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", "-timeout=30", "-verbosity=0"]
    atheris.Setup(["fuzz", *options, str(corpus)], one)
    atheris.Fuzz()


def run_coverage(seconds: int) -> tuple[int, float, bool]:
    """(inputs, seconds of the slowest, whether all passed) of `coverage`."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="raythink-fuzz-") as folder:
        environment = os.environ | {"RAYTHINK_CORPUS": f"{folder}/corpus"}
        command = [sys.executable, "-m", "benchmarks.fuzz", "--inner", "--coverage-s", str(seconds)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    runs, worst = lines[-1].removeprefix(RESULT).split() if lines else ("0", "0")
    if done.returncode:
        print((done.stdout + done.stderr)[-3000:])
    return int(runs), float(worst), done.returncode == 0


def run_cases(count: int) -> bool:
    """Whether the tests of fuzzing pass with so many cases."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/checkers/test_fuzz.py"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"RAYTHINK_FUZZ": str(count)}).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000, help="cases of the tests; 0: none (%(default)s)")
    parser.add_argument("--coverage-s", type=int, default=60, help="seconds of atheris; 0: none (%(default)s)")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        coverage(options.coverage_s)
        return 0
    passed = run_cases(options.count) if options.count else True
    runs, worst = 0, 0.0
    if options.coverage_s and importlib.util.find_spec("atheris"):
        runs, worst, covered = run_coverage(options.coverage_s)
        passed = passed and covered
    elif options.coverage_s:
        print("atheris is not installed here: the coverage-guided part is left out")
    print(json.dumps({"cases": options.count, "failed": not passed, "coverage_runs": runs, "worst_s": worst}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
