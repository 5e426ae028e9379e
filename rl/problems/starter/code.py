"""Short Python functions: one to three steps on a number, or filter, map and return on a list.

The ground truth is Guru's: a JSON text {"inputs", "outputs", "fn_name"}, each input the JSON list of arguments.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from rl.problems.starter.base import Instance, Solution
from rl.problems.starter.slip import Slip

DATA_SOURCE = "codegen__starter"

Step = tuple[str, int]
"""An operation's name and its constant (0 where it has none)."""

OPERATIONS = ("add", "subtract", "multiply", "double", "square")
"""A square comes first or not at all, so that no value grows beyond a few thousand."""
FILTERS = ("even", "odd", "larger", "smaller")
RETURNS = ("sum", "list", "count")
SENTENCE = {
    "add": "adds {k} to {it}",
    "subtract": "subtracts {k} from {it}",
    "multiply": "multiplies {it} by {k}",
    "double": "doubles {it}",
    "square": "squares {it}",
}
ORDER = {
    "add": "add {k}",
    "subtract": "subtract {k}",
    "multiply": "multiply by {k}",
    "double": "double",
    "square": "square",
    "even": "even",
    "odd": "odd",
    "larger": "larger than {k}",
    "smaller": "smaller than {k}",
}


@dataclass(frozen=True)
class CodeInstance(Instance):
    steps: tuple[Step, ...]
    keep: Step | None = None
    returns: str = ""


def generate(rng: random.Random) -> CodeInstance:
    """Seven problems in ten are on a number, three on a list."""
    return _number_function(rng) if rng.random() < 0.7 else _list_function(rng)


def solve(instance: CodeInstance, slip: Slip) -> Solution:
    """The expression grows step by step; the answer returns it."""
    return _solve_list(instance, slip) if instance.returns else _solve_number(instance, slip)


_RETURN_HINTS = {"sum": "sum([...])", "count": "len([...])", "list": "[...]"}


def _number_function(rng: random.Random) -> CodeInstance:
    count = rng.choices((1, 2, 3), (1, 9, 10))[0]
    steps = tuple(_step(rng, OPERATIONS if i == 0 else OPERATIONS[:-1]) for i in range(count))
    clauses = [_say(SENTENCE, step, "x" if i == 0 else "the result") for i, step in enumerate(steps)]
    question = f"Write a function f(x) that {' and then '.join(clauses)}."
    truth = _tests([0, 1, -rng.randint(2, 9), *rng.sample(range(2, 50), 2)], lambda x: _run(steps, x))
    return CodeInstance(question, truth, DATA_SOURCE, "number_" + "_".join(name for name, _ in steps), steps)


def _list_function(rng: random.Random) -> CodeInstance:
    keep = _step(rng, FILTERS)
    returns = rng.choices(RETURNS, (4, 4, 1))[0]
    steps = () if returns == "count" or rng.random() < 0.1 else (_step(rng, OPERATIONS),)
    parts = ["keeps the items of a that are " + _say(ORDER, keep)]
    parts += [_say(SENTENCE, step, "each") for step in steps]
    question = f"Write a function f(a) that {', '.join(parts)} and returns the {returns}."
    edge = keep[1]
    lists = [[], [edge], [edge - 1, edge, edge + 1, edge + 2]]
    lists += [[rng.randint(-9, 60) for _ in range(rng.randint(4, 6))] for _ in range(2)]
    truth = _tests(lists, lambda items: _run_list(keep, steps, returns, items))
    kind = "_".join(["list", keep[0], *(name for name, _ in steps), returns])
    return CodeInstance(question, truth, DATA_SOURCE, kind, steps, keep, returns)


def _solve_number(instance: CodeInstance, slip: Slip) -> Solution:
    expression, lines = "x", []
    for step in instance.steps:
        expression = _grow(expression, _misread(step, slip, OPERATIONS))
        lines.append(f"{_say(ORDER, step)}: {expression}")
    names = ", then ".join(name for name, _ in instance.steps)
    plan = f"{names.capitalize()}. Return the result."
    return Solution(plan, "\n".join(lines), f"def f(x): return {expression}")


def _solve_list(instance: CodeInstance, slip: Slip) -> Solution:
    assert instance.keep is not None
    condition = _condition(_misread(instance.keep, slip, FILTERS))
    item, lines = "v", [f"{_say(ORDER, instance.keep)}: {condition}"]
    for step in instance.steps:
        item = _grow(item, _misread(step, slip, OPERATIONS))
        lines.append(f"{_say(ORDER, step)}: {item}")
    body = f"[{item} for v in a if {condition}]"
    returns = slip.pick(instance.returns, RETURNS)
    expression = {"sum": f"sum({body})", "count": f"len({body})", "list": body}[returns]
    lines.append(f"{instance.returns}: {_RETURN_HINTS[returns]}")
    middle = "".join(f", {name} each" for name, _ in instance.steps)
    plan = f"Keep the {instance.keep[0]} items{middle}, return the {instance.returns}."
    return Solution(plan, "\n".join(lines), f"def f(a): return {expression}")


def _step(rng: random.Random, names: tuple[str, ...]) -> Step:
    name = rng.choices(names, [3 if "{k}" in ORDER[name] else 1 for name in names])[0]
    if name == "multiply":
        return name, rng.randint(3, 9)
    return name, rng.randint(2, 49) if "{k}" in ORDER[name] else 0


def _misread(step: Step, slip: Slip, names: tuple[str, ...]) -> Step:
    """The step as the trace takes it: perhaps another operation, perhaps another constant."""
    name, constant = step
    taken = slip.pick(name, names)
    if "{k}" in ORDER[taken]:
        constant = slip.number(constant or 2, low=1)
    return taken, constant


def _say(words: dict[str, str], step: Step, it: str = "") -> str:
    return words[step[0]].format(k=step[1], it=it)


def _grow(expression: str, step: Step) -> str:
    """The Python expression after one more step, with the parentheses that precedence needs and no others."""
    name, constant = step
    loose = "+" in _top_level(expression) or "-" in _top_level(expression)
    if name in ("add", "subtract"):
        return f"{expression}{'+' if name == 'add' else '-'}{constant}"
    if name == "square":
        return f"{expression if len(expression) == 1 else f'({expression})'}**2"
    return f"{f'({expression})' if loose else expression}*{2 if name == 'double' else constant}"


def _top_level(expression: str) -> str:
    """The characters of an expression that stand outside all parentheses."""
    depth, outside = 0, []
    for char in expression:
        depth += (char == "(") - (char == ")")
        if depth == 0:
            outside.append(char)
    return "".join(outside)


def _condition(step: Step) -> str:
    name, constant = step
    return {"even": "v%2==0", "odd": "v%2==1", "larger": f"v>{constant}", "smaller": f"v<{constant}"}[name]


def _run(steps: tuple[Step, ...], value: int) -> int:
    for name, constant in steps:
        if name == "add":
            value += constant
        elif name == "subtract":
            value -= constant
        elif name == "square":
            value *= value
        else:
            value *= 2 if name == "double" else constant
    return value


def _run_list(keep: Step, steps: tuple[Step, ...], returns: str, items: list[int]) -> int | list[int]:
    name, constant = keep
    tests = {
        "even": lambda v: v % 2 == 0,
        "odd": lambda v: v % 2 == 1,
        "larger": lambda v: v > constant,
        "smaller": lambda v: v < constant,
    }
    kept = [_run(steps, item) for item in items if tests[name](item)]
    return sum(kept) if returns == "sum" else len(kept) if returns == "count" else kept


def _tests(arguments: list, function) -> str:
    inputs = [json.dumps([argument]) for argument in arguments]
    outputs = [json.dumps(function(argument)) for argument in arguments]
    return json.dumps({"inputs": inputs, "outputs": outputs, "fn_name": "f"})
