"""When two of the values of `values.py` are equal: the policy is that of `math.py`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from actors.checkers import evaluate
from actors.checkers.expression import Node
from actors.checkers.regions import INFINITY, MINUS_INFINITY, Interval, Region, merged
from actors.checkers.units import DEGREE, PERCENT, RADIAN
from actors.checkers.values import (
    MAX_ITEMS,
    Assignments,
    Collection,
    Matrix,
    Quantity,
    Relation,
    Tuple,
    Words,
    flat,
    interval_of,
)


def equal(truth: Any, answer: Any) -> bool:
    """Whether two values are the same under the policy of `math.py`. Raises TooCostly, Undefined, ParseError."""
    if isinstance(truth, Assignments) or isinstance(answer, Assignments):
        return _same_assignments(truth, answer)
    if isinstance(truth, Region) and isinstance(answer, Collection) and (listed := _listed_intervals(answer)):
        answer = listed
    if isinstance(truth, Collection) or isinstance(answer, Collection):
        return _same_collection(flat(truth), flat(answer))
    if isinstance(truth, Region) or isinstance(answer, Region):
        return _same_region(truth, answer)
    if isinstance(truth, Matrix) or isinstance(answer, Matrix):
        return _same_matrix(truth, answer)
    if isinstance(truth, Relation) or isinstance(answer, Relation):
        return _same_relation(truth, answer)
    if isinstance(truth, Words) or isinstance(answer, Words):
        return _as_words(truth) == _as_words(answer) is not None
    if isinstance(truth, Tuple) and isinstance(answer, Tuple):
        return (
            (truth.left, truth.right) == (answer.left, answer.right)
            and len(truth.items) == len(answer.items)
            and all(equal(a, b) for a, b in zip(truth.items, answer.items, strict=True))
        )
    if isinstance(truth, Quantity) and isinstance(answer, Quantity):
        return _same_quantity(truth, answer)
    return False


def _as_words(value: Any) -> str | None:
    """`C` and `\\text{(C)}` are the same choice, though the first reads as a variable."""
    if isinstance(value, Words):
        return value.text
    if isinstance(value, Quantity) and value.node[0] == "var" and value.unit is None:
        return value.node[1].lower()
    return None


def _listed_intervals(answer: Collection) -> Region | None:
    """`(-\\infty, 1), (2, \\infty)` for their union, where they cannot be points."""
    if not all(isinstance(item, Tuple) and len(item.items) == 2 for item in answer.items):
        return None
    intervals = tuple(interval_of(item) for item in answer.items)
    endless = any(bound in (INFINITY, MINUS_INFINITY) for i in intervals for bound in (i.low, i.high))
    return Region(intervals) if endless or any(i.low_closed or i.high_closed for i in intervals) else None


def _same_assignments(truth: Any, answer: Any) -> bool:
    """Named values by their names; `x=1, y=2` is also the point (1, 2)."""
    if isinstance(truth, Assignments) and isinstance(answer, Assignments) and set(truth.names) == set(answer.names):
        other = dict(zip(answer.names, answer.items, strict=True))
        return all(equal(item, other[name]) for name, item in zip(truth.names, truth.items, strict=True))
    named, point = (truth, answer) if isinstance(truth, Assignments) else (answer, truth)
    if isinstance(point, Tuple):
        return len(point.items) == len(named.items) and all(
            equal(a, b) for a, b in zip(point.items, named.items, strict=True)
        )
    return _same_collection(flat(truth), flat(answer))


def _same_collection(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    """Equality of sets: each item of one has an equal in the other."""
    if max(len(left), len(right)) > MAX_ITEMS or bool(left) != bool(right):
        return False
    return all(any(equal(a, b) for b in right) for a in left) and all(any(equal(a, b) for a in left) for b in right)


def _same_quantity(truth: Quantity, answer: Quantity) -> bool:
    left, right = truth.unit, answer.unit
    if left is not None and right is not None:
        if not (left.dimensions and right.dimensions):  # "square units" are any
            return evaluate.equal(truth.node, answer.node)
        if {left, right} == {DEGREE, RADIAN}:
            return _same_ratio(truth, answer)
        if not left.comparable(right):
            return False
        if left.factor != right.factor:
            return evaluate.equal(("*", truth.node, ("num", left.factor)), ("*", answer.node, ("num", right.factor)))
        return evaluate.equal(truth.node, answer.node)
    plain = evaluate.exact(truth.node) if left is None and right == PERCENT else None
    if plain is not None and 0 < abs(plain) < 1:  # 0.25 is 25%, so the sign of 0.25% was not merely left out
        return _same_ratio(truth, answer)
    return evaluate.equal(truth.node, answer.node) or _same_ratio(truth, answer)


def _same_ratio(truth: Quantity, answer: Quantity) -> bool:
    """50% is 0.5 and 180 degrees are pi: units that are themselves numbers."""

    def scaled(value: Quantity) -> Node:
        if value.unit == PERCENT:
            return ("/", value.node, ("num", Fraction(100)))
        if value.unit == DEGREE:
            return ("*", value.node, ("/", ("pi",), ("num", Fraction(180))))
        return value.node

    if not {truth.unit, answer.unit} & {PERCENT, DEGREE}:
        return False
    return evaluate.equal(scaled(truth), scaled(answer))


def _same_matrix(truth: Any, answer: Any) -> bool:
    left, right = _rows(truth), _rows(answer)
    if left is None or right is None:
        return False
    if isinstance(truth, Tuple) or isinstance(answer, Tuple):  # a vector may stand as a row, a column, or a tuple
        left, right = (_transposed(rows) if all(len(row) == 1 for row in rows) else rows for rows in (left, right))
    if [len(row) for row in left] != [len(row) for row in right]:
        return False
    cells = zip((c for row in left for c in row), (c for row in right for c in row), strict=True)
    return all(evaluate.equal(a, b) for a, b in cells)


def _transposed(rows: tuple[tuple[Node, ...], ...]) -> tuple[tuple[Node, ...], ...]:
    return tuple(zip(*rows, strict=True))


def _rows(value: Any) -> tuple[tuple[Node, ...], ...] | None:
    if isinstance(value, Matrix):
        return value.rows
    if not isinstance(value, Tuple):
        return None
    if all(isinstance(item, Quantity) for item in value.items):
        return (tuple(item.node for item in value.items),)
    if all(isinstance(item, Tuple) and all(isinstance(cell, Quantity) for cell in item.items) for item in value.items):
        return tuple(tuple(cell.node for cell in item.items) for item in value.items)
    return None


def _same_relation(truth: Any, answer: Any) -> bool:
    """Equations up to a constant factor; `y = 2x+1` also answers `2x+1`."""
    if isinstance(truth, Relation) and isinstance(answer, Relation):
        return evaluate.proportional(("-", truth.left, truth.right), ("-", answer.left, answer.right))
    relation, other = (truth, answer) if isinstance(truth, Relation) else (answer, truth)
    if isinstance(other, Quantity) and relation.left[0] == "var":
        return evaluate.equal(relation.right, other.node)
    return False


def _same_region(truth: Any, answer: Any) -> bool:
    left, right = _merged(truth), _merged(answer)
    if left is None or right is None or len(left) != len(right):
        return False
    return all(
        a.low_closed == b.low_closed
        and a.high_closed == b.high_closed
        and evaluate.equal(a.low, b.low)
        and evaluate.equal(a.high, b.high)
        for a, b in zip(left, right, strict=True)
    )


def _merged(value: Any) -> list[Interval] | None:
    """The intervals of a region in order, overlapping ones joined; None if it is none."""
    if isinstance(value, Tuple) and len(value.items) == 2:
        value = Region((interval_of(value),))
    return merged(value) if isinstance(value, Region) else None
