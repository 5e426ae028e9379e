"""Sets of real numbers: intervals, what an inequality says of its unknown, and how such sets are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from actors.checkers import evaluate, expression
from actors.checkers.expression import Node, ParseError

INFINITY: Node = ("infinity",)
MINUS_INFINITY: Node = ("neg", INFINITY)


@dataclass(frozen=True)
class Interval:
    low: Node
    high: Node
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True)
class Region:
    intervals: tuple[Interval, ...]


REALS = Region((Interval(MINUS_INFINITY, INFINITY, False, False),))


def point(at: Node) -> Interval:
    return Interval(at, at, True, True)


def merged(region: Region) -> list[Interval]:
    """The intervals in order, overlapping and touching ones joined. Raises Undefined where a bound is not real."""
    joined: list[Interval] = []
    for interval in sorted(region.intervals, key=lambda i: evaluate.real(i.low)):
        if joined and _touches(joined[-1], interval):
            previous = joined[-1]
            low_closed = previous.low_closed or (
                interval.low_closed and evaluate.real(interval.low) == evaluate.real(previous.low)
            )
            last, other = (previous, interval) if _ends_later(previous, interval) else (interval, previous)
            closed = last.high_closed or (
                other.high_closed and evaluate.real(other.high) == evaluate.real(last.high)
            )
            joined[-1] = Interval(previous.low, last.high, low_closed, closed)
        else:
            joined.append(interval)
    return joined


def _ends_later(left: Interval, right: Interval) -> bool:
    return evaluate.real(left.high) >= evaluate.real(right.high)


def _touches(left: Interval, right: Interval) -> bool:
    end, start = evaluate.real(left.high), evaluate.real(right.low)
    return start < end or (start == end and (left.high_closed or right.low_closed))


def intersection(regions: Sequence[Region]) -> Region:
    """What lies in all of them."""
    result = regions[0]
    for region in regions[1:]:
        pairs = ((a, b) for a in result.intervals for b in region.intervals)
        result = Region(tuple(common for a, b in pairs if (common := _common(a, b)) is not None))
    return result


def _common(left: Interval, right: Interval) -> Interval | None:
    lows = [(evaluate.real(i.low), not i.low_closed, i.low) for i in (left, right)]
    highs = [(evaluate.real(i.high), i.high_closed, i.high) for i in (left, right)]
    low, low_open, low_node = max(lows, key=lambda bound: bound[:2])
    high, high_closed, high_node = min(highs, key=lambda bound: bound[:2])
    if low > high or (low == high and (low_open or not high_closed)):
        return None
    return Interval(low_node, high_node, not low_open, high_closed)


def without(region: Region, points: Sequence[Node]) -> Region:
    """The region less single points."""
    return intersection([region, *(everything_but(at) for at in points)])


def everything_but(at: Node) -> Region:
    return Region((Interval(MINUS_INFINITY, at, False, False), Interval(at, INFINITY, False, False)))


def of_inequality(operators: Sequence[str], sides: Sequence[Node]) -> Region:
    """The reals that satisfy `x op a`, `a op x`, `a op x op b`, or `|x - a| op b`. Raises ParseError."""
    unknown = [index for index, side in enumerate(sides) if expression.variables(side)]
    if len(unknown) != 1:
        raise ParseError("an inequality in more than one name")
    here = sides[unknown[0]]
    if len(sides) == 3 and unknown == [1] and here[0] == "var":
        if {operators[0], operators[1]} <= {"<", r"\le"}:
            return Region((Interval(sides[0], sides[2], operators[0] == r"\le", operators[1] == r"\le"),))
        if {operators[0], operators[1]} <= {">", r"\ge"}:
            return Region((Interval(sides[2], sides[0], operators[1] == r"\ge", operators[0] == r"\ge"),))
    if len(sides) != 2:
        raise ParseError("a chain of inequalities")
    operator, bound = operators[0], sides[1 - unknown[0]]
    if unknown[0] == 1:
        operator = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}.get(operator, operator)
    if here[0] == "var":
        return _half_line(operator, bound)
    if here[0] == "abs":
        return _around(operator, _centre(here[1]), bound)
    raise ParseError("an inequality that is not solved")


def _half_line(operator: str, bound: Node) -> Region:
    if operator == r"\ne":
        return everything_but(bound)
    if operator in ("<", r"\le"):
        return Region((Interval(MINUS_INFINITY, bound, False, operator == r"\le"),))
    return Region((Interval(bound, INFINITY, operator == r"\ge", False),))


def _around(operator: str, centre: Node, radius: Node) -> Region:
    low, high = ("-", centre, radius), ("+", centre, radius)
    if evaluate.real(radius) <= 0 or operator == r"\ne":
        raise ParseError("a distance that is not positive")
    if operator in ("<", r"\le"):
        return Region((Interval(low, high, operator == r"\le", operator == r"\le"),))
    closed = operator == r"\ge"
    return Region((Interval(MINUS_INFINITY, low, False, closed), Interval(high, INFINITY, closed, False)))


def _centre(inside: Node) -> Node:
    """`a` of |x - a|."""
    if inside[0] == "var":
        return ("num", Fraction(0))
    if inside[0] in "+-" and inside[1][0] == "var" and not expression.variables(inside[2]):
        return inside[2] if inside[0] == "-" else ("neg", inside[2])
    raise ParseError("an inequality that is not solved")
