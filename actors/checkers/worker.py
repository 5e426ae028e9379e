"""A checker process: `python -m actors.checkers.worker` answers requests on stdin with verdicts on stdout.

It judges one text at a time in its main thread and sets no timers: whoever started it enforces the deadline by killing
it. It ends when its stdin does, so it cannot outlive its verifier by more than one check. What libraries print goes to
stderr, so nothing but frames reaches stdout. Where the sandbox refuses to be weaker than a full jail (--allow-weaker
lifts that), programs get error verdicts and the rest is judged as ever.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from actors import checkers
from actors.checkers import compare, tools, wire
from actors.checkers.judge_client import KEY_VARIABLE, JudgeClient
from actors.messages import Comparison, Verdict
from actors.sandbox import backends

ALLOW_WEAKER = "--allow-weaker"
PROFILE = "--profile"
JUDGE_URL = "--judge-url"
JUDGE_MODEL = "--judge-model"
MEMORY_BYTES = 2 << 30  # of private memory: a check that needs more fails as an error instead of filling the machine


def arguments() -> argparse.Namespace:
    """What the verifier's `spawner` puts on the command line."""
    parser = argparse.ArgumentParser(prog="python -m actors.checkers.worker")
    parser.add_argument(ALLOW_WEAKER, action="store_true", help="run programs where layers of the jail are missing")
    parser.add_argument(PROFILE, choices=tools.PROFILES, default="strict", help="how answers are scored")
    parser.add_argument(JUDGE_URL, default="", help="OpenAI-compatible URL of the judge for free-form science")
    parser.add_argument(JUDGE_MODEL, default="", help="the model to ask there")
    return parser.parse_args()


def main() -> int:
    """Serve until stdin ends."""
    options = arguments()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    key = os.environ.pop(KEY_VARIABLE, "")  # before the sandbox: nothing that it starts inherits it
    judge = JudgeClient(options.judge_url, options.judge_model, key).within if options.judge_url else None
    import mpmath  # noqa: F401 (needed by most checks of mathematics: loaded before the first deadline runs)

    try:
        backends.shared(options.allow_weaker)  # likewise
    except backends.WeakerSandbox as refusal:
        print(refusal, file=sys.stderr)
    run = partial(backends.run, allow_weaker=options.allow_weaker)
    answers.write(wire.pack({"ready": os.getpid()}))
    answers.flush()
    while (message := wire.read(sys.stdin.buffer)) is not None:
        given = tools.Tools.within(message["timeout_s"], run, options.profile, judge)
        answers.write(wire.pack(wire.message_of(_answer(message, given))))
        answers.flush()
    return 0


def _answer(message: Mapping[str, Any], given: tools.Tools) -> Verdict | Comparison:
    if message.get("op") == "compare":
        return compare.compare(message["question"], message["texts"], given)
    return checkers.check(wire.problem_of(message), message["text"], given)


if __name__ == "__main__":
    sys.exit(main())
