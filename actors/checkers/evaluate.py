"""What the trees of `expression.py` are worth: exactly (rationals), and numerically (50 digits).

Two expressions are equal if both are rational and the same, or if they agree to 30 digits at several fixed points of
their variables (identity testing at random points, Schwartz 1980 and Zippel 1979 for polynomials). Nothing is
simplified, so the cost is linear in the tree, and every operation that could explode (powers, factorials, binomials)
has a budget: `TooCostly`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from actors.checkers import calculus
from actors.checkers.expression import Node, TooCostly, variables

MAX_POWER = 10_000
MAX_BITS = 20_000
DIGITS = 100
SAME = 80  # digits to which two values agree; half of a longer literal's digits come on top
ROUGH = 14  # the same for what was integrated or extrapolated


class Undefined(Exception):
    """The expression has no finite value (0/0, log 0, tan 90 degrees)."""


def exact(node: Node) -> Fraction | None:
    """The value if it is rational by arithmetic alone, else None. Raises TooCostly, Undefined."""
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind not in ("+", "-", "*", "/", "neg", "^", "!", "floor", "ceil"):
        return None
    parts = [exact(part) for part in node[1:]]
    if any(part is None for part in parts):
        return None
    value = _arithmetic(kind, *parts)
    if value is not None and max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooCostly("number too large")
    return value


def _arithmetic(kind: str, left: Fraction, right: Fraction = Fraction(0)) -> Fraction | None:
    if kind == "neg":
        return -left
    if kind in ("floor", "ceil"):
        return Fraction(math.floor(left) if kind == "floor" else math.ceil(left))
    if kind == "/":
        if right == 0:
            raise Undefined("division by zero")
        return left / right
    if kind == "^":
        return _rational_power(left, right)
    if kind == "!":
        if left.denominator != 1 or left < 0 or left > 1000:
            raise TooCostly("factorial of a number that is negative, broken or above 1000")
        product = Fraction(1)
        for factor in range(2, int(left) + 1):
            product *= factor
        return product
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__}[kind](right)


def _rational_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    if base == 0 and exponent <= 0:
        raise Undefined("zero to a power that is not positive")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > MAX_POWER or bits * abs(exponent) > MAX_BITS:
        raise TooCostly("power too large")
    return base ** int(exponent)


def numeric(node: Node, values: Mapping[str, Any]) -> Any:
    """The value (mpmath number) under an assignment of the variables. Raises TooCostly, Undefined."""
    import mpmath

    kind = node[0]
    if kind == "num":
        return mpmath.mpf(node[1].numerator) / node[1].denominator
    if kind == "var" and node[1] in values:
        return values[node[1]]
    if kind == "var":
        constants = {"e": mpmath.e, "i": mpmath.mpc(0, 1)}
        return +constants[node[1]]
    if kind == "pi":
        return +mpmath.pi
    if kind == "infinity":
        return mpmath.inf
    if kind == "call":
        argument = numeric(node[2], values)
        if values and node[1] in ("ln", "log") and mpmath.im(argument) == 0 and argument < 0:
            raise Undefined("a logarithm of a negative variable")  # ln ab is ln a + ln b where these are real
        return _finite(_function(node[1]), argument)
    if kind == "bound":
        return calculus.value(node, values)
    parts = [numeric(part, values) for part in node[1:]]
    return _finite(_OPERATIONS[kind], *parts)


def _finite(operation: Callable[..., Any], *arguments: Any) -> Any:
    """Apply an operation; without a finite value it is Undefined (a bare infinity is a value, one that arises none)."""
    import mpmath

    try:
        value = operation(*arguments)
    except (ZeroDivisionError, ValueError, OverflowError) as failure:
        raise Undefined(str(failure)) from failure
    infinite = any(mpmath.isinf(argument) for argument in arguments)
    if mpmath.isnan(value) or (mpmath.isinf(value) and not infinite):
        raise Undefined("no finite value")
    return value


def _power(base: Any, exponent: Any) -> Any:
    if abs(base) > 1 and exponent.real < -1e6:
        return base * 0
    if abs(exponent) > 1e6:
        raise TooCostly("power too large")
    return base**exponent


def _root(radicand: Any, degree: Any) -> Any:
    import mpmath

    if degree == 2:
        return mpmath.sqrt(radicand)
    if mpmath.im(degree) != 0 or not 0 < degree < 1000:
        raise TooCostly("root of an unusual degree")
    if degree != int(degree) and (mpmath.im(radicand) != 0 or radicand < 0):
        raise Undefined("a broken root of what is not positive")
    if mpmath.im(radicand) == 0 and mpmath.re(radicand) < 0 and int(degree) % 2:
        return -((-radicand) ** (mpmath.mpf(1) / degree))
    return radicand ** (mpmath.mpf(1) / degree)


def _factorial(argument: Any) -> Any:
    import mpmath

    if abs(argument) > 1000:
        raise TooCostly("factorial above 1000")
    return mpmath.factorial(argument)


def _binomial(above: Any, below: Any) -> Any:
    import mpmath

    if abs(above) > 10_000 or abs(below) > 10_000:
        raise TooCostly("binomial of large numbers")
    if mpmath.im(below) == 0 and mpmath.re(below) < 0:
        raise Undefined("binomial of a negative number")
    return mpmath.binomial(above, below)


def _rounded(towards: str) -> Callable[[Any], Any]:
    def rounded(value: Any) -> Any:
        import mpmath

        nearest = mpmath.nint(value)
        if mpmath.im(value) == 0 and abs(value - nearest) < mpmath.mpf(10) ** (10 - DIGITS):
            return nearest  # an integer up to rounding
        return getattr(mpmath, towards)(value)

    return rounded


def _divide(left: Any, right: Any) -> Any:
    if right == 0:
        raise Undefined("division by zero")
    return left / right


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "neg": lambda a: -a,
    "abs": abs,
    "/": _divide,
    "^": _power,
    "root": _root,
    "!": _factorial,
    "binom": _binomial,
    "floor": _rounded("floor"),
    "ceil": _rounded("ceil"),
}


def _function(name: str) -> Callable[[Any], Any]:
    import mpmath

    tiny = mpmath.mpf(10) ** (5 - DIGITS)

    def guarded(numerator: Callable, denominator: Callable) -> Callable[[Any], Any]:
        def ratio(x: Any) -> Any:
            below = denominator(x)
            if abs(below) < tiny:  # a pole is hit only up to rounding
                raise Undefined(f"{name} has a pole there")
            return numerator(x) / below

        return ratio

    def one(_: Any) -> Any:
        return mpmath.mpf(1)

    table: dict[str, Callable[[Any], Any]] = {
        "sin": mpmath.sin,
        "cos": mpmath.cos,
        "tan": guarded(mpmath.sin, mpmath.cos),
        "cot": guarded(mpmath.cos, mpmath.sin),
        "sec": guarded(one, mpmath.cos),
        "csc": guarded(one, mpmath.sin),
        "arcsin": mpmath.asin,
        "arccos": mpmath.acos,
        "arctan": mpmath.atan,
        "sinh": mpmath.sinh,
        "cosh": mpmath.cosh,
        "tanh": mpmath.tanh,
        "ln": mpmath.log,
        "log": mpmath.log,
        "exp": mpmath.exp,
        "cis": lambda x: mpmath.cos(x) + mpmath.mpc(0, 1) * mpmath.sin(x),
    }
    if name in ("exp", "sinh", "cosh", "tanh"):
        return lambda x: table[name](x) if abs(x) < 1e6 else _too_costly(name)
    return lambda x: table[name](x) if abs(x) < mpmath.mpf(10) ** 30 else _too_costly(name)


def _too_costly(name: str) -> Any:
    raise TooCostly(f"{name} of a huge number")


def close(left: Any, right: Any, digits: int = SAME) -> bool:
    """Equal to so many significant digits (or both so small that they are the rounding of a zero)."""
    import mpmath

    if mpmath.isinf(left) or mpmath.isinf(right):
        return left == right
    scale = max(abs(left), abs(right))
    return scale < mpmath.mpf(10) ** -(digits + 10) or abs(left - right) <= scale * mpmath.mpf(10) ** -digits


def _extra_digits(node: Node, exponent: bool = False) -> int:
    """How much finer than usual two values must agree: a literal of many digits, or a power of ten, may be told from
    others only there."""
    if node[0] == "num":
        length = max(len(str(abs(node[1].numerator))), len(str(node[1].denominator)))
        return min(400, int(abs(node[1])) if exponent and abs(node[1]) < 400 else max(0, length - 20))
    return max(
        (_extra_digits(part, exponent or (node[0] == "^" and index == 1))
         for index, part in enumerate(node[1:]) if isinstance(part, tuple)),
        default=0,
    )  # fmt: skip


def points(names: frozenset[str], count: int = 5) -> list[dict[str, Any]]:
    """Fixed pseudo-random assignments of real values in 0.3..1.9: the first two positive, the others of either sign."""
    import mpmath

    assignments = []
    for index in range(count):
        rng = random.Random(index)
        assignment = {}
        for name in sorted(names):
            size = mpmath.mpf(rng.getrandbits(160)) / 2**160 * mpmath.mpf("1.6") + mpmath.mpf("0.3")
            assignment[name] = -size if index > 1 and rng.random() < 0.5 else size
        assignments.append(assignment)
    return assignments


def equal(left: Node, right: Node) -> bool:
    """Whether two expressions have the same value everywhere they are defined. Raises TooCostly, Undefined."""
    import mpmath

    left_exact, right_exact = exact(left), exact(right)
    if left_exact is not None and right_exact is not None:
        return left_exact == right_exact
    names = variables(left) | variables(right)
    extra = _extra_digits(left) + _extra_digits(right)
    digits = ROUGH if calculus.rough(left) or calculus.rough(right) else SAME + extra
    with mpmath.workdps(DIGITS + extra):
        return _agree(names, lambda at: close(numeric(left, at), numeric(right, at), digits))


def proportional(left: Node, right: Node) -> bool:
    """Whether left = c * right for a constant c other than 0: the equations `left = 0` and `right = 0` say the same."""
    import mpmath

    names = variables(left) | variables(right)
    ratios: list[Any] = []

    def constant_ratio(at: Mapping[str, Any]) -> bool:
        above, below = numeric(left, at), numeric(right, at)
        if abs(below) < 1e-40 or abs(above) < 1e-40:
            return False
        ratios.append(above / below)
        return close(ratios[0], ratios[-1])

    with mpmath.workdps(DIGITS):
        return bool(names) and _agree(names, constant_ratio)


def _agree(names: frozenset[str], test: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether a test holds at every point where it is defined, which must be at least two (one without variables)."""
    tried = 0
    for assignment in points(names, 5 if names else 1):
        try:
            if not test(assignment):
                return False
        except Undefined:
            if not names:
                raise
            continue
        tried += 1
    return tried >= (2 if names else 1)


def real(node: Node) -> float:
    """The value of an expression without variables as a float, for ordering. Raises Undefined if it is not real."""
    import mpmath

    if variables(node):
        raise Undefined("a bound with a variable")
    with mpmath.workdps(DIGITS):
        value = numeric(node, {})
        if abs(mpmath.im(value)) > 1e-30:
            raise Undefined("a bound that is not real")
        return float(mpmath.re(value))
