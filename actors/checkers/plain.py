"""Comparison of plain Python values outside the sandbox: the child reports what it computed, the parent judges.

Reported values come as `sandbox.result.RunResult.returned` describes: exact built-in types, dicts as {"dict": pairs},
sets as {"set": items}, tuples as lists. No method of a model-written object ever runs here.
"""

from __future__ import annotations

import math
from typing import Any

FLOAT_TOLERANCE = 1e-6  # relative


def encode(value: Any) -> Any:
    """A trusted value in the form in which the sandbox reports it. Raises TypeError for other than plain types."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, (set, frozenset)):
        return {"set": [encode(item) for item in value]}
    raise TypeError(f"{type(value).__name__} is no plain value")


def same(expected: Any, reported: Any, *, strict: bool = True) -> bool:
    """Whether a reported value equals an encoded expected one.

    Booleans equal only booleans, floats agree to a relative 1e-6, an integer may stand for an expected float.
    `strict`: a float may not stand for an expected integer (it may where Python's own `==` was the test).
    """
    if isinstance(expected, bool) or isinstance(reported, bool) or expected is None or isinstance(expected, str):
        return type(expected) is type(reported) and expected == reported
    if isinstance(expected, (int, float)):
        return isinstance(reported, (int, float)) and _same_number(expected, reported, strict)
    if isinstance(expected, list):
        return (
            isinstance(reported, list)
            and len(expected) == len(reported)
            and all(same(a, b, strict=strict) for a, b in zip(expected, reported, strict=True))
        )
    if not isinstance(reported, dict) or expected.keys() != reported.keys():
        return False
    if "dict" in expected:
        return _same_pairs(expected["dict"], reported["dict"], strict)
    return _same_items(expected["set"], reported["set"], strict)


def _same_number(expected: float, reported: float, strict: bool) -> bool:
    if isinstance(expected, int) and isinstance(reported, int):
        return expected == reported
    if strict and isinstance(expected, int):
        return False
    try:
        expected, reported = float(expected), float(reported)
    except OverflowError:  # an integer beyond the floats is no float's equal
        return False
    if not (math.isfinite(expected) and math.isfinite(reported)):
        return expected == reported or (expected != expected and reported != reported)
    return math.isclose(expected, reported, rel_tol=FLOAT_TOLERANCE, abs_tol=1e-9)


def _same_pairs(expected: list[Any], reported: Any, strict: bool) -> bool:
    """Equality of mappings. Keys that JSON made strings of also match the numbers that they spell."""
    if not _is_pairs(reported) or len(expected) != len(reported):
        return False
    rest = {_key(key): value for key, value in reported}
    return len(rest) == len(expected) and all(
        _key(key) in rest and same(value, rest[_key(key)], strict=strict) for key, value in expected
    )


def _is_pairs(reported: Any) -> bool:
    return isinstance(reported, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in reported)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else repr(key)


def _same_items(expected: list[Any], reported: Any, strict: bool) -> bool:
    if not isinstance(reported, list) or len(expected) != len(reported):
        return False
    rest = list(reported)
    for item in expected:
        match = next((index for index, other in enumerate(rest) if same(item, other, strict=strict)), None)
        if match is None:
            return False
        rest.pop(match)
    return True


def same_output(expected: str, printed: str) -> bool:
    """Whether a program printed what was expected: line by line, token by token.

    Trailing space and empty lines at the ends do not count, numbers that are not both integers agree to 1e-6, and
    yes/no may have any case.
    """
    left, right = expected.strip().splitlines(), printed.strip().splitlines()
    return len(left) == len(right) and all(map(_same_line, left, right))


def _same_line(expected: str, printed: str) -> bool:
    if expected.strip() == printed.strip():
        return True
    left, right = expected.split(), printed.split()
    return len(left) == len(right) and all(map(_same_token, left, right))


def _same_token(expected: str, printed: str) -> bool:
    if expected == printed:
        return True
    if expected.lower() in ("yes", "no"):
        return expected.lower() == printed.lower()
    if _is_integer(expected) and _is_integer(printed):
        return len(expected) <= 4000 and len(printed) <= 4000 and int(expected) == int(printed)
    try:
        left, right = float(expected), float(printed)
    except ValueError:
        return False
    return math.isfinite(left) and math.isclose(left, right, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE)


def _is_integer(token: str) -> bool:
    digits = token[1:] if token[:1] in ("-", "+") else token
    return digits.isascii() and digits.isdigit()
