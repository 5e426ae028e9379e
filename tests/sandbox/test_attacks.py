"""Programs that try to break out, forge, exhaust or confuse, one after the other in one jail.

A row of attacks.jsonl: the program (`code`, or `bytes` in Latin-1), its input ("@8MB": eight mebibytes), which verdicts
a run of it may have, what its output must never hold, and its whole output where that is certain. Those that end at a
time limit are in test_jail.py. After each the jail still runs an honest program.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.sandbox.jail import Jail, WeakerSandbox

ATTACKS = [json.loads(line) for line in (Path(__file__).parent / "attacks.jsonl").read_text().splitlines()]
LIMITS = {"timeout_s": 10.0, "memory_mb": 512, "output_limit": 1 << 20}


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    try:
        jail = Jail()
    except WeakerSandbox as refusal:
        pytest.skip(str(refusal))
    yield jail
    jail.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=[f"{attack['id']} {attack['title']}" for attack in ATTACKS])
def test_it_is_held(jail: Jail, attack: dict[str, Any]) -> None:
    program = attack["code"] if attack["bytes"] is None else attack["bytes"].encode("latin-1")
    stdin = "x" * (8 << 20) if attack["stdin"] == "@8MB" else attack["stdin"]
    result = jail.run(program, stdin, **LIMITS)
    printed = result.stdout.decode(errors="backslashreplace")
    assert result.status in attack["verdicts"], (result.status, printed[-500:], result.stderr[-500:])
    assert [leak for leak in attack["never"] if leak in printed] == []
    assert attack["stdout"] in (None, printed)
    honest = jail.run("print(int(input()) + 1)", "41", **LIMITS)
    assert (honest.status, honest.stdout) == ("ok", b"42\n")
