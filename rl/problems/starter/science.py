"""One formula with units: a product (long multiplication by a digit) or a quotient; half of them multiple choice."""

from __future__ import annotations

import random
from dataclasses import dataclass

from rl.problems.starter.base import Instance, Solution
from rl.problems.starter.slip import Slip

DATA_SOURCE = "stem__starter"
LETTERS = "ABCD"


@dataclass(frozen=True)
class Law:
    """`result [units[0]] = left [units[1]] (operation) right [units[2]]`."""

    result: str
    left: str
    operation: str
    right: str
    units: tuple[str, str, str]

    def ask(self, a: int, b: int, swapped: bool) -> str:
        """The question for left = a and right = b; swapped names the right one first."""
        given = [f"{self.left} is {a} {self.units[1]}", f"{self.right} is {b} {self.units[2]}"]
        first, second = reversed(given) if swapped else given
        return f"The {first} and the {second}. What is the {self.result}?"


LAWS = (
    Law("distance", "speed", "*", "time", ("m", "m/s", "s")),
    Law("force", "mass", "*", "acceleration", ("N", "kg", "m/s2")),
    Law("mass", "density", "*", "volume", ("kg", "kg/m3", "m3")),
    Law("work", "force", "*", "distance", ("J", "N", "m")),
    Law("energy", "power", "*", "time", ("J", "W", "s")),
    Law("force", "pressure", "*", "area", ("N", "Pa", "m2")),
    Law("speed", "distance", "/", "time", ("m/s", "m", "s")),
    Law("power", "energy", "/", "time", ("W", "J", "s")),
)


@dataclass(frozen=True)
class ScienceInstance(Instance):
    law: Law
    a: int
    b: int
    options: tuple[int, ...] = ()


def generate(rng: random.Random) -> ScienceInstance:
    """A law, two numbers, and in half of the cases four options of which one is the value."""
    law = rng.choice(LAWS)
    b = rng.randint(2, 9)
    if law.operation == "/":
        value = rng.randint(2, 9)
        a = value * b
    else:
        a = rng.randint(2, 9) if rng.random() < 0.3 else rng.randint(11, 59)
        value = a * b
    question = law.ask(a, b, swapped=rng.random() < 0.5)
    if rng.random() < 0.5:
        return ScienceInstance(question, f"{value} {law.units[0]}", DATA_SOURCE, law.result, law, a, b)
    options = _options(rng, value)
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options))
    letter = LETTERS[options.index(value)]
    return ScienceInstance(f"{question} {listed}", letter, DATA_SOURCE, f"{law.result}_choice", law, a, b, options)


def solve(instance: ScienceInstance, slip: Slip) -> Solution:
    """The law, the calculation, then the unit or the letter."""
    law = instance.law
    a, b = slip.number(instance.a, low=1), slip.number(instance.b, low=2, high=9)
    lines = [f"{law.result}={law.left}{law.operation}{law.right}"]
    value = _divide(a, b, slip, lines) if law.operation == "/" else _multiply(a, b, slip, lines)
    verb = "Multiply" if law.operation == "*" else "Divide"
    by = "and" if law.operation == "*" else "by"
    plan = f"{verb} {law.left} {by} {law.right}."
    if not instance.options:
        answer = f"{value} {law.units[0]}"
        return Solution(f"{plan} Give the unit.", "\n".join([*lines, answer]), answer)
    nearest = min(instance.options, key=lambda option: abs(option - value))
    letter = slip.pick(LETTERS[instance.options.index(nearest)], LETTERS)
    lines.append(f"{value} is ({letter})")
    return Solution(f"{plan} Find the option.", "\n".join(lines), letter)


def _multiply(a: int, b: int, slip: Slip, lines: list[str]) -> int:
    """Long multiplication of a number by a digit: ones, tens, carry, result."""
    tens, ones = divmod(a, 10)
    if not tens:
        value = slip.number(a * b)
        lines.append(f"{a}*{b}={value}")
        return value
    low = slip.number(ones * b)
    high = slip.number(tens * b)
    carry, digit = divmod(low, 10)
    total = slip.number(high + carry)
    value = 10 * total + digit
    lines += [f"{a}*{b}", f"{ones}*{b}={low}", f"{tens}*{b}={high}", f"{high}+{carry}={total}", str(value)]
    return value


def _divide(a: int, b: int, slip: Slip, lines: list[str]) -> int:
    """A quotient from the multiplication table; after a misread number, the whole part."""
    value = slip.number(a // b, low=1)
    lines.append(f"{a}/{b}={value}")
    return value


def _options(rng: random.Random, value: int) -> tuple[int, ...]:
    """The value and three wrong values near it, shuffled."""
    near = [value + offset for offset in (-20, -10, -2, -1, 1, 2, 10, 20) if value + offset > 0]
    options = [value, *rng.sample(near, 3)]
    rng.shuffle(options)
    return tuple(options)
