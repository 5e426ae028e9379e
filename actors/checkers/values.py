"""The values that a mathematical answer can have, and how they are read from cleaned LaTeX.

An answer is one of: Words ("increasing"), Quantity (an expression with a unit), Collection (a list or set: the order is
free), Tuple (a point, vector, or interval: brackets and order count), Matrix, Region (a union of intervals, from
inequalities or \\cup), Relation (an equation).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from actors.checkers import expression
from actors.checkers.expression import Node, ParseError, Refused
from actors.checkers.units import Unit, split_unit

MAX_ITEMS = 60
MAX_NESTING = 40  # brackets; also what keeps the recursion here shallow


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Quantity:
    node: Node
    unit: Unit | None = None


@dataclass(frozen=True)
class Collection:
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Tuple:
    left: str
    right: str
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Interval:
    low: Node
    high: Node
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True)
class Region:
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Relation:
    left: Node
    right: Node


INFINITY: Node = ("infinity",)
MINUS_INFINITY: Node = ("neg", INFINITY)

_WORD_NUMBERS = {
    name: value
    for value, name in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_DIGIT = re.compile(r"\d")
_SCALE = re.compile(r"^(.*\d)\s*(hundred|thousand|million|billion|trillion)$")
_MATRIX = re.compile(
    r"^(?P<scale>.*?)\\begin\{(?P<kind>[pbvBV]?matrix|array|smallmatrix)\}(?:\{[^{}]*\})?"
    r"(?P<body>.*)\\end\{(?P=kind)\}$",
    re.DOTALL,
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_MIXED = re.compile(r"(?<![\d./^_])(\d+) (\d+) ?/ ?(\d+)(?![\d./])")
_FUNCTION_HEAD = re.compile(r"^[a-zA-Z]'?\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\)\s*=\s*")
_RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|[=<>]")
_MEMBER = re.compile(r"^[a-zA-Z]\s*\\in(?![a-zA-Z])\s*")
_AND_OR = re.compile(r"\\text\s*\{\s*,?\s*(and|or)\s*\}|(?<![a-zA-Z\\])(and|or)(?![a-zA-Z])|\\(?:lor|vee)(?![a-zA-Z])")
_EMPTY = re.compile(r"\\emptyset|\\\{\s*\\\}")
_REALS = re.compile(
    r"\\(?:mathbb|mathbf)\s*\{?\s*R\s*\}?|\\R|\\text\s*\{\s*all real(?:s| numbers)\s*\}|all real(?:s| numbers)"
)


def read(text: str) -> Any:
    """The value that a cleaned answer stands for. Raises ParseError, TooCostly, Undefined."""
    if _nesting(text) > MAX_NESTING:
        raise Refused("nested too deeply")
    text = _MEMBER.sub("", _FUNCTION_HEAD.sub("", text)).strip()
    if _EMPTY.fullmatch(text) or text.lower() in (r"\text{no solution}", "no solution"):
        return Collection(())
    if _REALS.fullmatch(text):
        return Region((Interval(MINUS_INFINITY, INFINITY, False, False),))
    words = _words(text)
    if words is not None:
        return words
    matrix = _MATRIX.match(text)
    if matrix:
        return _matrix(matrix)
    pieces = _pieces(_THOUSANDS.sub(lambda m: m.group().replace(",", ""), text))
    if len(pieces) > MAX_ITEMS:
        raise ParseError("too many items")
    if len(pieces) > 1:
        items = tuple(item for piece in pieces for item in flat(read(piece)))
        if all(isinstance(item, Region) for item in items):
            return Region(tuple(interval for item in items for interval in item.intervals))
        return Collection(items)
    return _single(pieces[0])


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def flat(value: Any) -> tuple[Any, ...]:
    return value.items if isinstance(value, Collection) else (value,)


def _words(text: str) -> Words | Quantity | None:
    """A spelled number, or an answer in words: in \\text{}, or a run of three or more letters."""
    boxed = _TEXT.fullmatch(text)
    plain = boxed.group(1) if boxed else text
    plain = re.sub(r"\s+", " ", plain).strip().strip(".").lower()
    plain = re.sub(r"^(?:an?|the) ", "", plain)
    choice = re.fullmatch(r"\(?([a-z])\)", plain) or (boxed and re.fullmatch(r"([a-z])", plain))
    if choice:
        return Words(choice.group(1))
    if plain.replace("-", " ").split() and all(w in _WORD_NUMBERS for w in plain.replace("-", " ").split()):
        return Quantity(("num", Fraction(_spelled(plain.replace("-", " ").split()))))
    if re.fullmatch(r"[a-z][a-z'-]*(?: [a-z][a-z'-]*)*", plain) and (boxed or len(plain) > 2):
        if re.search(r"\b(?:and|or|not)\b", plain) and not boxed:
            raise Refused("prose")
        return Words(plain)
    return None


def _spelled(words: list[str]) -> int:
    total = 0
    for word in words:
        value = _WORD_NUMBERS[word]
        total = max(total, 1) * 100 if value == 100 else total + value
    return total


def _matrix(match: re.Match[str]) -> Matrix:
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", match.group("body")) if row.strip()]
    if len(rows) > MAX_ITEMS:
        raise ParseError("matrix too large")
    entries = tuple(tuple(expression.parse(cell.strip()) for cell in row.split("&")) for row in rows)
    scale = match.group("scale").strip().rstrip("*").strip()
    if scale:
        factor: Node = ("neg", ("num", Fraction(1))) if scale == "-" else expression.parse(scale)
        entries = tuple(tuple(("*", factor, cell) for cell in row) for row in entries)
    return Matrix(entries)


def _pieces(text: str) -> list[str]:
    """The parts of a list at the top level: split at commas, `and`, `or`; a set's braces are taken off."""
    if text.startswith("\\{") and text.endswith("\\}") and _closes_at_end(text):
        text = text[2:-2]
    text = _AND_OR.sub(",", text)
    pieces, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth == 0:
            pieces.append(text[start:position])
            start = position + 1
    pieces.append(text[start:])
    cleaned = [piece.strip() for piece in pieces if piece.strip()]
    if not cleaned:
        raise ParseError("empty")
    return cleaned


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens `text` is closed by the one that ends it."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in ")]}":
            return position == len(text) - 1
    return False


def _single(text: str) -> Any:
    if text.startswith("\\{") and text.endswith("\\}"):
        return Collection(flat(read(text)))
    if r"\pm" in text:
        if text.count(r"\pm") > 1:
            raise ParseError("several \\pm")
        return Collection((read(text.replace(r"\pm", "+").lstrip("+")), read(text.replace(r"\pm", "-"))))
    if r"\cup" in text:
        parts = [_bracketed(part.strip()) for part in text.split(r"\cup")]
        if all(isinstance(part, Tuple) for part in parts):
            return Region(tuple(interval_of(part) for part in parts))
        raise ParseError("a union of what are no intervals")
    if _RELATION.search(text):
        return _relation(text)
    bracketed = _bracketed(text)
    if bracketed is not None:
        return bracketed
    return _quantity(text)


def _bracketed(text: str) -> Tuple | None:
    """`(a, b)`, `[a, b)`: at least two items in brackets that belong together."""
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]" or not _closes_at_end(text):
        return None
    pieces = _pieces(text[1:-1])
    if len(pieces) < 2 and not text[1:-1].strip().startswith("["):
        return None
    if len(pieces) > MAX_ITEMS:
        raise ParseError("too many items")
    return Tuple(text[0], text[-1], tuple(_single(piece) for piece in pieces))


def _quantity(text: str) -> Quantity:
    text = _TEXT.sub(
        lambda m: m.group(1) if m.group(1).strip() in _SCALES or _DIGIT.search(m.group(1)) else m.group(), text
    )
    scaled = _SCALE.match(text)
    if scaled:
        text = rf"{scaled.group(1)} \times 10^{{{_SCALES[scaled.group(2)]}}}"
    value, unit = split_unit(text)
    value = _MIXED.sub(r"(\1+\\frac{\2}{\3})", value)
    return Quantity(expression.parse(value), unit)


def _relation(text: str) -> Any:
    """`x = 5` is 5, `y = 2x + 1` an equation, an inequality in one name a region. Longer chains of `=` are refused."""
    operators = [match.group() for match in _RELATION.finditer(text)]
    sides = [side.strip() for side in _RELATION.split(text)]
    if operators == ["="]:
        if re.fullmatch(r"[a-zA-Z](?:_\{?\w+\}?)?|\\[a-zA-Z]+", sides[0]) and not _depends(sides[1]):
            return read(sides[1])
        return Relation(expression.parse(sides[0]), expression.parse(sides[1]))
    if "=" in operators or not all(sides):
        raise Refused("a chain of relations")
    return _region(operators, [expression.parse(side) for side in sides])


def _depends(text: str) -> bool:
    """Whether a side of an equation holds variables: then the equation is one, not a value with a name."""
    try:
        node = expression.parse(text)
    except ParseError:
        return False
    return bool(expression.variables(node))


def _region(operators: list[str], sides: list[Node]) -> Region:
    """The reals that satisfy `x op a`, `a op x`, or `a op x op b`."""
    unknown = [index for index, side in enumerate(sides) if expression.variables(side)]
    if len(unknown) != 1 or sides[unknown[0]][0] != "var":
        raise ParseError("an inequality in more than one name")
    if len(sides) == 3 and unknown == [1]:
        if {operators[0], operators[1]} <= {"<", r"\le"}:
            return Region((Interval(sides[0], sides[2], operators[0] == r"\le", operators[1] == r"\le"),))
        if {operators[0], operators[1]} <= {">", r"\ge"}:
            return Region((Interval(sides[2], sides[0], operators[1] == r"\ge", operators[0] == r"\ge"),))
    if len(sides) != 2:
        raise ParseError("a chain of inequalities")
    operator, bound = operators[0], sides[1 - unknown[0]]
    if operator == r"\ne":
        return Region((Interval(MINUS_INFINITY, bound, False, False), Interval(bound, INFINITY, False, False)))
    below = (operator in ("<", r"\le")) == (unknown[0] == 0)
    closed = operator in (r"\le", r"\ge")
    if below:
        return Region((Interval(MINUS_INFINITY, bound, False, closed),))
    return Region((Interval(bound, INFINITY, closed, False),))


def interval_of(value: Tuple) -> Interval:
    if len(value.items) != 2 or not all(isinstance(item, Quantity) for item in value.items):
        raise ParseError("not an interval")
    low, high = (item.node for item in value.items)
    return Interval(low, high, value.left == "[", value.right == "]")
