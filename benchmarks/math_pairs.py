"""Labelled pairs of a ground truth and an answer, generated from a seed: the label follows from how a pair is made.

A kind is a function that draws a value and gives (gold, right spellings of it, wrong answers to it); a pair takes one
of either. The policy is that of `actors.checkers.math`. Kinds that begin with `adv_` are hostile: near misses, hedges,
expressions whose evaluation would explode, and code.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isqrt
from pathlib import Path

Drawn = tuple[str, list[str], list[str]]


@dataclass(frozen=True)
class Pair:
    """`answer` stands in a box, unless the kind ends in `response`: then it is all that a model wrote."""

    gold: str
    answer: str
    equal: bool
    kind: str

    @property
    def adversarial(self) -> bool:
        return self.kind.startswith("adv_")

    @property
    def text(self) -> str:
        """The answer as a model gives it: in a box."""
        whole = self.kind.endswith("response") or "\\boxed" in self.answer or "<answer>" in self.answer
        return self.answer if whole else f"\\boxed{{{self.answer}}}"


def pairs(seed: int, count: int, adversarial: bool = False) -> Iterator[Pair]:
    """`count` pairs, the kinds in turn, about as many right as wrong; the same arguments give the same pairs."""
    rng = random.Random(f"math_pairs/{seed}/{adversarial}")
    kinds = ADVERSARIAL if adversarial else REGULAR
    names = list(kinds)
    for index in range(count):
        name = names[index % len(names)]
        gold, right, wrong = kinds[name](rng)
        equal = bool(right) and (not wrong or rng.random() < 0.5)
        yield Pair(gold, rng.choice(right if equal else wrong), equal, name)


def read(path: str | Path) -> list[Pair]:
    """The pairs of a JSONL file. Raises OSError, or KeyError for a line that lacks a field."""
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [Pair(row["gold"], row["answer"], row["equal"], row["kind"]) for row in rows]


def _ratio(rng: random.Random, *denominators: int) -> Fraction:
    """A fraction in lowest terms that is no integer, of either sign."""
    while True:
        denominator = rng.choice(denominators)
        value = Fraction(rng.choice((-1, 1)) * rng.randint(1, 12 * denominator), denominator)
        if value.denominator > 1:
            return value


def _frac(value: Fraction, command: str = r"\frac") -> str:
    sign = "-" if value < 0 else ""
    return rf"{sign}{command}{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _decimal(value: Fraction) -> str:
    """The decimal of a fraction whose denominator divides 1000."""
    thousandths = abs(int(value * 1000))
    return ("-" if value < 0 else "") + f"{thousandths // 1000}.{thousandths % 1000:03d}".rstrip("0").rstrip(".")


def _distinct(rng: random.Random, count: int, low: int = -20, high: int = 20) -> list[int]:
    return rng.sample(range(low, high), count)


def integer(rng: random.Random) -> Drawn:
    n = rng.randint(1000, 10**9)
    grouped = f"{n:,}"
    right = [str(n), grouped, grouped.replace(",", "{,}"), grouped.replace(",", r"\,"), f"{n}.", f"x={n}", f"{n}.0"]
    return str(n), right, [str(n + 1), str(10 * n), str(-n), f"{n}.5", f"{n}, {n + 1}"]


def decimal(rng: random.Random) -> Drawn:
    value = _ratio(rng, 4, 5, 8, 20, 25)
    right = [_decimal(value), _frac(value), f"{value.numerator}/{value.denominator}", _decimal(value) + "0"]
    rounded = _decimal(Fraction(round(value * 10), 10) if value.denominator > 10 else value + 1)
    wrong = [rounded, _decimal(value * 10), _frac(-value)]
    return rng.choice(right[:2]), right, [text for text in wrong if text != _decimal(value)]


def fraction(rng: random.Random) -> Drawn:
    value = _ratio(rng, 3, 6, 7, 9, 11, 13)
    k, n, d = rng.randint(2, 9), abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    right = [_frac(value, command) for command in (r"\frac", r"\dfrac", r"\tfrac")]
    right += [rf"{sign}\frac{{{k * n}}}{{{k * d}}}", f"{sign}{n}/{d}", rf"\left({sign}\frac{{{n}}}{{{d}}}\right)"]
    if n > d and n % d:
        right.append(rf"{sign}{n // d}\frac{{{n % d}}}{{{d}}}")
    return _frac(value), right, [_frac(1 / value), _frac(value + Fraction(1, d)), f"{sign}{n / d:.2f}"]


def repeating(rng: random.Random) -> Drawn:
    cycle = rng.randint(1, 98)
    value = Fraction(cycle, 99)
    gold = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    return gold, [rf"0.\overline{{{cycle:02d}}}"], [f"0.{cycle:02d}", f"0.{cycle:02d}{cycle:02d}", rf"{cycle}\%"]


def percent(rng: random.Random) -> Drawn:
    n = rng.randint(1, 99)
    right = [rf"{n}\%", f"{n}%", _decimal(Fraction(n, 100)), _frac(Fraction(n, 100)), rf"{n} \text{{ percent}}"]
    return rng.choice(right[:1] + right[2:3]), right[:3], [rf"{n + 1}\%", str(100 * n), _decimal(Fraction(n, 1000))]


def radical(rng: random.Random) -> Drawn:
    outside, inside = rng.randint(2, 9), rng.choice((2, 3, 5, 6, 7, 10, 11))
    gold = rf"{outside}\sqrt{{{inside}}}"
    square = outside * outside * inside
    right = [rf"\sqrt{{{square}}}", rf"\sqrt{{{inside}}}\cdot {outside}"]
    right.append(rf"\frac{{{outside * inside}}}{{\sqrt{{{inside}}}}}")
    near = f"{isqrt(square * 10**4) / 100:.2f}"
    return gold, right, [rf"\sqrt{{{square + 1}}}", rf"{outside}\sqrt[3]{{{inside}}}", near, str(square)]


def constant(rng: random.Random) -> Drawn:
    n, d = rng.randint(2, 30), rng.choice((3, 5, 7))
    right = [rf"\frac{{{n}\pi}}{{{d}}}", rf"\frac{{{n}}}{{{d}}}\pi", rf"{n}π/{d}", rf"\pi\cdot\frac{{{n}}}{{{d}}}"]
    return right[0], right, [rf"\frac{{{n + 1}\pi}}{{{d}}}", f"{n * 3.14 / d:.2f}", rf"\frac{{{n}}}{{{d}}}"]


def polynomial(rng: random.Random) -> Drawn:
    a, b = (abs(n) + 1 for n in _distinct(rng, 2, 0, 9))
    gold = f"(x+{a})(x-{b})"
    middle = f"{a - b:+d}x" if a != b else ""
    right = [f"x^2{middle}-{a * b}", f"(x-{b})(x+{a})", f"x(x+{a})-{b}(x+{a})"]
    return gold, right, [f"x^2{middle}+{a * b}", f"(x-{a})(x+{b})", f"x^3{middle}-{a * b}", f"(y+{a})(y-{b})"]


def complex_number(rng: random.Random) -> Drawn:
    a, b = rng.randint(2, 20), rng.randint(2, 20)
    right = [f"{b}i+{a}", f"{a}+i{b}", rf"{a} + {b}\cdot i"]
    return f"{a}+{b}i", right, [f"{a}-{b}i", f"{b + 1}+{a}i", f"{a + b}i", str(a + b)]


def equation(rng: random.Random) -> Drawn:
    a, b = rng.randint(2, 9), rng.randint(1, 9)
    right = [f"y-{b}={a}x", f"{a}x-y+{b}=0", f"{2 * a}x+{2 * b}=2y", f"{a}x+{b}"]
    return f"y={a}x+{b}", right, [f"y={a}x-{b}", f"y={a + 1}x+{b}", f"x={a}y+{b}"]


def interval(rng: random.Random) -> Drawn:
    low, high = sorted(_distinct(rng, 2))
    left, right = rng.choice("(["), rng.choice(")]")
    first, last = ("<" if left == "(" else r"\le"), ("<" if right == ")" else r"\le")
    same = [f"{left}{low},{high}{right}", rf"\left{left}{low}, {high}\right{right}", f"{low} {first} x {last} {high}"]
    other = {"(": "[", "[": "("}[left]
    wrong = [f"{other}{low},{high}{right}", f"{left}{low},{high + 1}{right}", f"{low},{high}", f"x > {low}"]
    return same[0], same, wrong


def solutions(rng: random.Random) -> Drawn:
    a, b, c = map(str, _distinct(rng, 3))
    right = [f"{c}, {a}, {b}", rf"\{{{b}, {c}, {a}\}}", rf"x={a}, x={b}, x={c}", rf"{a}, {b} \text{{ and }} {c}"]
    return rf"\{{{a}, {b}, {c}\}}", right, [f"{a}, {b}", rf"\{{{a}, {b}, {int(c) + 50}\}}", f"{a}"]


def point(rng: random.Random) -> Drawn:
    a, b, c = _distinct(rng, 3)
    right = [f"({a},{b},{c})", rf"\left({a}, {b}, {c}\right)", rf"\left({2 * a}/2, {b}.0, {c}\right)"]
    return f"({a}, {b}, {c})", right, [f"({b}, {a}, {c})", f"({a}, {b})", f"({a}, {b}, {c + 1})"]


def matrix(rng: random.Random) -> Drawn:
    a, b, c, d = _distinct(rng, 4, 1, 30)

    def spelled(kind: str, *cells: int) -> str:
        return rf"\begin{{{kind}}}{cells[0]}&{cells[1]}\\{cells[2]}&{cells[3]}\end{{{kind}}}"

    right = [spelled("bmatrix", a, b, c, d), spelled("pmatrix", a, b, c, d), f"[[{a},{b}],[{c},{d}]]"]
    wrong = [spelled("pmatrix", a, c, b, d), spelled("pmatrix", a, b, c, d + 1), f"({a},{b},{c},{d})"]
    return spelled("pmatrix", a, b, c, d), right, wrong


def unit(rng: random.Random) -> Drawn:
    n = rng.randint(2, 900)
    small, large, factor = rng.choice((("cm", "m", 100), ("g", "kg", 1000), ("mL", "L", 1000), ("min", "h", 60)))
    gold = rf"{n} \text{{ {large}}}"
    right = [f"{n}", f"{n} {large}", rf"{n}\,\mathrm{{{large}}}", rf"{n * factor}\text{{ {small}}}"]
    return gold, right, [rf"{n} \text{{ {small}}}", rf"{n + 1} \text{{ {large}}}", rf"{n} \text{{ V}}"]


def text(rng: random.Random) -> Drawn:
    word, other = rng.sample(("increasing", "ellipse", "even", "Tuesday", "isosceles", "odd", "parabola"), 2)
    right = [word, word.upper(), rf"\text{{{word}}}", rf"\mathrm{{{word}}}"]
    return rf"\text{{{word}}}", right, [other, f"not {word}", "7"]


def response(rng: random.Random) -> Drawn:
    n = rng.randint(2, 10**6)
    box = rf"\boxed{{{n}}}"
    thought = f"<think>perhaps {n + 1}, no, {n}</think>"
    right = [f"{thought}The answer is ${box}$.", f"We get {n - 1} + 1, so {box}.", f"First \\boxed{{3}}. Then {box}"]
    wrong = [f"{thought}The answer is \\boxed{{{n + 1}}}.", f"{thought}It is \\boxed{{{n}", f"The answer is not {box}.",
             f"{box} or \\boxed{{{n + 1}}}", f"<think>{box} and on"]  # fmt: skip
    return str(n), right, wrong


def adv_near(rng: random.Random) -> Drawn:
    n, k = rng.randint(10**18, 10**19), rng.randint(2, 9)
    while gcd(k, 3) == 3:
        k = rng.randint(2, 9)
    near = [(str(n), str(n + 1)), (f"{k}e-7", f"{k + 1}e-7"), (rf"\sqrt{{{k}}}", rf"\sqrt{{{k}}}+10^{{-16}}"),
            (rf"\frac{{{k}}}{{3}}", f"{k / 3:.15f}")]  # fmt: skip
    gold, wrong = rng.choice(near)
    return gold, [], [wrong]


def adv_trick(rng: random.Random) -> Drawn:
    n = rng.randint(2, 99)
    tricks = [rf"{n} \text{{ or }} {n + 1}", rf"\neq {n}", f"< {n}", rf"\approx {n}", f"x={n - 1}={n}",
              rf"\frac{{{n}}}{{0}}", " ".join(rf"\boxed{{{i}}}" for i in range(n - 20, n + 1))]  # fmt: skip
    return str(n), [], tricks


def adv_bomb(rng: random.Random) -> Drawn:
    k = rng.randint(5, 9)
    bombs = [f"{k}^{{{k}^{{{k}^{{{k}}}}}}}", f"(({k}0!)!)!", rf"\binom{{{k}000000000}}{{500000000}}", "9" * (500 * k),
             rf"(1+\sqrt{{{k}}})^{{100000}}", r"\sqrt{" * 30 * k + "2" + "}" * 30 * k, f"1e{k}00000000", "!" * 400 * k,
             rf"\sum_{{n=1}}^{{10^{{{k}}}}} n!", rf"\int_0^1 \sqrt{{\tan x+\sqrt{{\sin {k}x}}}}\,dx", "(" * 900 * k,
             f"(x+y+z)^{{{k}00}}", f"x^{{{k}^{{{k}^x}}}}"]  # fmt: skip
    return str(k), [], bombs


def adv_code(rng: random.Random) -> Drawn:
    n = rng.randint(2, 9)
    code = [f"print({n}) or {n}", f"len('{'a' * n}')", f"{n} if 1 else 0", f"lambda: {n}", f"sum([1]*{n})"]
    return str(n), [], [*code, f"sympify('{n}')"]


def adv_unicode(rng: random.Random) -> Drawn:
    n = rng.randint(12, 98)
    wide = "".join(chr(ord("０") + int(digit)) for digit in str(n))
    return str(n), [wide, f"\u200b{n}"], [f"\u202e{str(n)[::-1]}", f"{wide}１", f"−{n}"]


REGULAR: dict[str, Callable[[random.Random], Drawn]] = {
    kind.__name__: kind
    for kind in (integer, decimal, fraction, repeating, percent, radical, constant, polynomial, complex_number,
                 equation, interval, solutions, point, matrix, unit, text, response)
}  # fmt: skip
ADVERSARIAL: dict[str, Callable[[random.Random], Drawn]] = {
    kind.__name__: kind for kind in (adv_near, adv_trick, adv_bomb, adv_code, adv_unicode)
}
