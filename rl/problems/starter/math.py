"""Sums and differences of two or three two-digit numbers, worked column by column.

Every partial result has two digits, so each line of a clean trace is a one-digit fact with its carry or borrow.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rl.problems.starter.base import ITEMS, NAMES, Instance, Solution
from rl.problems.starter.slip import Slip

DATA_SOURCE = "math__starter"
FORMS = ("expression", "story", "steps")


@dataclass(frozen=True)
class MathInstance(Instance):
    numbers: tuple[int, ...]
    signs: tuple[str, ...]


def generate(rng: random.Random) -> MathInstance:
    """A problem with two or three operands in one of three wordings."""
    numbers = [rng.randint(11, 98)]
    signs: list[str] = []
    total = numbers[0]
    for _ in range(1 if rng.random() < 0.3 else 2):
        sign, number, total = _operand(rng, total)
        signs.append(sign)
        numbers.append(number)
    form = rng.choice(FORMS)
    question = {"expression": _expression, "story": _story, "steps": _steps}[form](rng, numbers, signs)
    kind = form + "".join(signs)
    return MathInstance(question, str(total), DATA_SOURCE, kind, tuple(numbers), tuple(signs))


def solve(instance: MathInstance, slip: Slip) -> Solution:
    """The operations from left to right, each by columns."""
    lines: list[str] = []
    total = instance.numbers[0]
    for sign, number in zip(instance.signs, instance.numbers[1:]):
        lines.append(f"{total}{sign}{number}")
        total = _columns(total, sign, number, slip, lines)
        lines.append(str(total))
    return Solution(_plan(instance.signs), "\n".join(lines), str(total))


def _columns(left: int, sign: str, right: int, slip: Slip, lines: list[str]) -> int:
    """Adds the lines of one operation and returns its result: ones first, then tens with carry or borrow."""
    tens_left, ones_left = divmod(left, 10)
    tens_right, ones_right = divmod(right, 10)
    if sign == "+":
        ones = slip.number(ones_left + ones_right, high=19)
        lines.append(f"{ones_left}+{ones_right}={ones}")
        carry, digit = divmod(ones, 10)
        tens = slip.number(tens_left + tens_right + carry)
    else:
        carry = int(ones_left < ones_right)
        digit = slip.number(10 * carry + ones_left - ones_right, high=9)
        lines.append(f"{10 * carry + ones_left}-{ones_right}={digit}")
        tens = slip.number(tens_left - tens_right - carry)
    lines.append(f"{tens_left}{sign}{tens_right}{sign + '1' if carry else ''}={tens}")
    return 10 * tens + digit


def _operand(rng: random.Random, total: int) -> tuple[str, int, int]:
    """A sign, a two-digit number, and the two-digit result that they give.

    Ends, because every two-digit total has such a pair: at least 11 can be added to or taken from it.
    """
    while True:
        sign, number = rng.choice("+-"), rng.randint(11, 89)
        result = total + number if sign == "+" else total - number
        if 10 <= result <= 99:
            return sign, number, result


def _expression(rng: random.Random, numbers: list[int], signs: list[str]) -> str:
    tail = "".join(f" {sign} {number}" for sign, number in zip(signs, numbers[1:]))
    return f"What is {numbers[0]}{tail}?"


def _story(rng: random.Random, numbers: list[int], signs: list[str]) -> str:
    name, things = rng.choice(NAMES), rng.choice(ITEMS) + "s"
    acts = [f"{'gets' if sign == '+' else 'loses'} {number}" for sign, number in zip(signs, numbers[1:])]
    middle = ", then ".join(acts)
    return f"{name} has {numbers[0]} {things}, {middle}. How many {things} does {name} have now?"


def _steps(rng: random.Random, numbers: list[int], signs: list[str]) -> str:
    acts = [f"{'Add' if sign == '+' else 'Subtract'} {number}." for sign, number in zip(signs, numbers[1:])]
    return f"Start with {numbers[0]}. {' '.join(acts)} What is the result?"


def _plan(signs: tuple[str, ...]) -> str:
    first = "Add the first two numbers." if signs[0] == "+" else "Subtract the second number from the first."
    if len(signs) == 1:
        return first
    return f"{first} Then {'add' if signs[1] == '+' else 'subtract'} the third."
