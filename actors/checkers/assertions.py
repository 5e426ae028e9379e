"""Assertions turned into reports, so that the expected values never enter the process of the code under test.

`assert f(x) == 3` becomes `__record__(0, f(x))` there and the pair (0, 3) here; a process that exits early, prints
markers, or returns objects that equal everything then cannot pass, because it does not know the 3. Assertions without a
literal to take out stay (comparisons by `__same__`, which no object's own `__eq__` can fool): the code under test runs
in the same interpreter as those and could tamper with them, so `Assertions.sealed` says whether all were rewritten.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.checkers.plain import encode, same


@dataclass(frozen=True)
class Expected:
    """What a recorded assertion must report: this value, or anything of this truth value."""

    value: Any
    by_truth: bool = False

    def holds(self, reported: Any) -> bool:
        if self.by_truth:
            return bool(reported) is self.value
        return same(self.value, reported, strict=False)


@dataclass(frozen=True)
class Assertions:
    """Tests to run in the sandbox (`source`), what they must report, and whether all of them are sealed."""

    source: str
    expected: Mapping[int, Expected]
    sealed: bool


def rewrite(tests: str) -> Assertions:
    """Take the expected literals out of `tests`. Raises SyntaxError (the data's fault)."""
    rewriter = _Rewriter()
    tree = ast.fix_missing_locations(rewriter.visit(ast.parse(tests)))
    return Assertions(ast.unparse(tree), rewriter.expected, rewriter.sealed)


class _Rewriter(ast.NodeTransformer):
    def __init__(self) -> None:
        self.expected: dict[int, Expected] = {}
        self.sealed = True

    def visit_Assert(self, node: ast.Assert) -> ast.AST:  # noqa: N802 (the name is ast's)
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], (ast.Eq, ast.Is)):
            for side, other in ((test.comparators[0], test.left), (test.left, test.comparators[0])):
                literal = _literal(side)
                if literal is not None:
                    return self.record(other, Expected(literal[0]))
            if isinstance(test.ops[0], ast.Eq):
                self.sealed = False
                node.test = ast.Call(ast.Name("__same__", ast.Load()), [test.left, test.comparators[0]], [])
                return node
        negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        inner = test.operand if negated else test
        self.sealed = False  # a truth value is no secret
        if isinstance(inner, ast.Call):
            return self.record(inner, Expected(not negated, by_truth=True))
        return node

    def record(self, value: ast.expr, expected: Expected) -> ast.Expr:
        index = len(self.expected)
        self.expected[index] = expected
        name = ast.Name("__record__", ast.Load())
        return ast.Expr(ast.Call(name, [ast.Constant(index), value], []))


def _literal(node: ast.expr) -> tuple[Any] | None:
    """(encoded value,) of a literal expression, else None."""
    try:
        return (encode(ast.literal_eval(node)),)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
