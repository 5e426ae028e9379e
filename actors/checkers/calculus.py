"""Values of sums, products, definite integrals and limits, by number, each within a budget of evaluations.

Finite sums are added up to the working precision. Infinite ones, integrals and limits are extrapolated and good to some
15 digits (`rough`): what does not converge, or cannot be told to, is Undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actors.checkers.expression import Node, TooCostly, size

MAX_WORK = 20_000  # terms times nodes of a finite sum
MAX_SIZE = 60  # nodes of what is extrapolated or integrated
MAX_NODES = 60_000  # nodes that are evaluated on the way to a value
DIGITS = 25
FAR = 1000  # a term of an infinite sum that is looked at to tell whether it converges


def rough(node: Node) -> bool:
    """Whether a tree holds something whose value is known to few digits only."""
    if node[0] == "bound" and (node[1] in ("int", "lim") or node[4] == ("infinity",)):
        return True
    return any(rough(part) for part in node[1:] if isinstance(part, tuple))


def value(node: Node, values: Mapping[str, Any]) -> Any:
    """The value of ("bound", kind, name, low, high, body). Raises TooCostly, Undefined."""
    import mpmath

    from actors.checkers.evaluate import Undefined, numeric

    _, kind, name, low, high, body = node
    bounds = numeric(low, values), numeric(high, values)
    if any(mpmath.im(bound) != 0 for bound in bounds):
        raise Undefined("a bound that is not real")

    work = 0

    def term(at: Any) -> Any:
        nonlocal work
        work += size(body)
        if work > MAX_NODES:
            raise TooCostly(f"a {kind} that takes many evaluations")
        return numeric(body, {**values, name: at})

    if kind in ("sum", "prod") and not mpmath.isinf(bounds[1]):
        return _finite(kind, term, *bounds, size(body))
    if size(body) > MAX_SIZE or kind == "prod":
        raise TooCostly(f"a {kind} of a long expression")
    with mpmath.workdps(DIGITS):
        try:
            return {"sum": _series, "int": _integral, "lim": _limit}[kind](term, *bounds)
        except (ZeroDivisionError, ValueError, ArithmeticError, TypeError) as failure:
            raise Undefined(str(failure)) from failure


def _finite(kind: str, term: Callable[[Any], Any], low: Any, high: Any, nodes: int) -> Any:
    import mpmath

    from actors.checkers.evaluate import Undefined

    if low != int(low) or high != int(high):
        raise Undefined("a sum between broken numbers")
    if (high - low + 1) * nodes > MAX_WORK:
        raise TooCostly("a sum of many terms")
    total = mpmath.mpf(kind == "prod")
    for index in range(int(low), int(high) + 1):
        total = total * term(mpmath.mpf(index)) if kind == "prod" else total + term(mpmath.mpf(index))
    return total


def _series(term: Callable[[Any], Any], low: Any, high: Any) -> Any:
    import mpmath

    from actors.checkers.evaluate import Undefined

    last, before = term(mpmath.mpf(FAR)), term(mpmath.mpf(FAR - 1))
    alternating = mpmath.re(last) * mpmath.re(before) < 0 and abs(last) < abs(before) < 0.1
    if not alternating and abs(last) * FAR > 0.1:
        raise Undefined("a sum that does not converge, or too slowly to tell")
    return mpmath.nsum(term, [low, high])


def _integral(term: Callable[[Any], Any], low: Any, high: Any) -> Any:
    import mpmath

    from actors.checkers.evaluate import Undefined

    result, error = mpmath.quad(term, [low, high], error=True, maxdegree=7)
    if not mpmath.isfinite(result) or error > mpmath.mpf(10) ** -16 * max(1, abs(result)):
        raise Undefined("an integral that does not converge")
    return result


def _limit(term: Callable[[Any], Any], at: Any, _: Any) -> Any:
    import mpmath

    from actors.checkers.evaluate import Undefined, close

    if mpmath.isinf(at):
        return mpmath.limit(term, at)
    sides = [mpmath.limit(term, at, direction=direction) for direction in (1, -1)]
    if not close(*sides, 12):
        raise Undefined("a limit that depends on the side")
    return sides[0]
