"""What a short Python program prints: assignments, with an `if` or a loop in two programs of three.

The ground truth is codeio's text `"output": 7`. All values of a clean run lie in [0, 20].
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rl.problems.starter.base import Instance, Solution
from rl.problems.starter.slip import Slip

DATA_SOURCE = "simulation__starter"
LIMIT = 20

Term = str | int
"""A variable's name or a constant."""


@dataclass(frozen=True)
class Line:
    """`target = left (operation) right`; for the test of an `if`, target is empty and operation is > or <."""

    target: str
    left: Term
    operation: str = ""
    right: Term = 0

    @property
    def expression(self) -> str:
        return f"{self.left} {self.operation} {self.right}" if self.operation else str(self.left)


@dataclass(frozen=True)
class SimulationInstance(Instance):
    start: tuple[Line, ...]
    test: Line | None
    body: Line | None
    repeats: int
    output: Line


def generate(rng: random.Random) -> SimulationInstance:
    """Draws programs until one keeps every value within the limits."""
    while True:
        kind = rng.choice(("plain", "if", "loop"))
        program = {"plain": _plain, "if": _branch, "loop": _loop}[kind](rng)
        values = _run(*program)
        if all(0 <= value <= LIMIT for value in values):
            question = f"What does this print?\n{_text(*program)}"
            return SimulationInstance(question, f'"output": {values[-1]}', DATA_SOURCE, kind, *program)


def solve(instance: SimulationInstance, slip: Slip) -> Solution:
    """Every executed line with the values put in, then what is printed."""
    values: dict[str, int] = {}
    lines: list[str] = []
    for line in instance.start:
        _execute(line, values, slip, lines)
    taken = True
    if instance.test is not None:
        left, right = _value(instance.test.left, values), _value(instance.test.right, values)
        holds = left > right if instance.test.operation == ">" else left < right
        taken = slip.pick(holds, (True, False))
        lines.append(f"{left}{instance.test.operation}{right} {'yes' if taken else 'no'}")
    if instance.body is not None and taken:
        for _ in range(instance.repeats):
            _execute(instance.body, values, slip, lines)
    printed = _execute(instance.output, values, slip, lines)
    return Solution(_PLANS[instance.kind], "\n".join(lines), f'{{"output": {printed}}}')


_PLANS = {
    "plain": "Follow the lines in order. Then print the last value.",
    "if": "Follow the lines. Check the if. Then print the last value.",
    "loop": "Follow the lines. Repeat the loop. Then print the last value.",
}

Program = tuple[tuple[Line, ...], Line | None, Line | None, int, Line]


def _plain(rng: random.Random) -> Program:
    lines = (_constant("a", rng), _change("b", "a", rng), _change("c", "b", rng))
    return lines, None, None, 0, _output(rng, "a", "c")


def _branch(rng: random.Random) -> Program:
    test = Line("", "b", rng.choice("><"), rng.randint(2, 15))
    lines = (_constant("a", rng), _change("b", "a", rng))
    return lines, test, _change("b", "b", rng), 1, _output(rng, "a", "b")


def _loop(rng: random.Random) -> Program:
    lines = (_constant("a", rng), _constant("b", rng))
    body = Line("a", "a", rng.choice("+-"), "b") if rng.random() < 0.4 else _change("a", "a", rng)
    return lines, None, body, rng.choice((2, 3)), _output(rng, "a", "b")


def _constant(target: str, rng: random.Random) -> Line:
    return Line(target, rng.randint(1, 9))


def _change(target: str, source: str, rng: random.Random) -> Line:
    operation = rng.choice("++--*")
    return Line(target, source, operation, rng.choice((2, 3)) if operation == "*" else rng.randint(1, 9))


def _output(rng: random.Random, first: str, second: str) -> Line:
    return Line("", first, rng.choice("+-"), second) if rng.random() < 0.7 else Line("", second, "+", rng.randint(1, 9))


def _execute(line: Line, values: dict[str, int], slip: Slip, lines: list[str]) -> int:
    """Runs one line, adds it to the trace with its numbers, and returns its value."""
    name = f"{line.target}=" if line.target else ""
    left = _value(line.left, values)
    if line.operation:
        right = _value(line.right, values)
        value = slip.number(_apply(left, line.operation, right))
        lines.append(f"{name}{left}{line.operation}{right}={value}")
    else:
        value = left
        lines.append(f"{name}{value}")
    if line.target:
        values[line.target] = value
    return value


def _value(term: Term, values: dict[str, int]) -> int:
    return values[term] if isinstance(term, str) else term


def _apply(left: int, operation: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[operation]


def _run(start: tuple[Line, ...], test: Line | None, body: Line | None, repeats: int, output: Line) -> list[int]:
    """Every value that the program takes, the printed one last."""
    values: dict[str, int] = {}
    seen: list[int] = []

    def step(line: Line) -> None:
        left = _value(line.left, values)
        value = _apply(left, line.operation, _value(line.right, values)) if line.operation else left
        values[line.target] = value
        seen.append(value)

    for line in start:
        step(line)
    if test is None or (values["b"] > test.right if test.operation == ">" else values["b"] < test.right):
        for _ in range(repeats):
            step(body)
    step(output)
    return seen


def _text(start: tuple[Line, ...], test: Line | None, body: Line | None, repeats: int, output: Line) -> str:
    lines = [f"{line.target} = {line.expression}" for line in start]
    if test is not None:
        lines.append(f"if {test.expression}:")
    elif body is not None:
        lines.append(f"for i in range({repeats}):")
    if body is not None:
        lines.append(f"    {body.target} = {body.expression}")
    return "\n".join([*lines, f"print({output.expression})"])
