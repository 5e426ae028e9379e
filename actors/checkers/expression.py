"""A small LaTeX expression parser: recursive descent to a tree of tuples, linear in the length, with bounded depth.

Nothing is evaluated here and nothing ever calls `eval`: `evaluate.py` gives the trees their values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

MAX_DEPTH = 80  # a pair of parentheses takes two
MAX_NODES = 400
MAX_DIGITS = 400

Node = tuple[Any, ...]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(?P<command>\\[a-zA-Z]+)"
    r"|(?P<letter>[a-zA-Z])|(?P<op>[-+*/^_!(){}\[\]|%'=]))"
)
FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp cis".split())
_CONSTANTS = {r"\pi": "pi", r"\infty": "infinity"}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon theta lambda mu nu rho sigma tau phi varphi omega kappa eta zeta xi psi "
    "Delta Omega Gamma Theta Lambda Sigma Phi Psi ell".split()
)
_OPEN = {"(": ")", "[": "]", "{": "}"}
_ROUNDING = {r"\lfloor": ("floor", r"\rfloor"), r"\lceil": ("ceil", r"\rceil")}
_BOUND = {r"\sum": "sum", r"\prod": "prod", r"\int": "int", r"\lim": "lim"}
_CLOSERS = frozenset((r"\times", r"\cdot", r"\div", r"\circ", r"\rfloor", r"\rceil", r"\to", r"\rightarrow"))
_BASE_WORDS = dict(zip("two three four five six seven eight nine ten".split(), map(str, range(2, 11)), strict=True))
BASED = re.compile(r"\(?([0-9A-Z]{1,40})\)?_(?:\{\(?([0-9]{1,2})\)?\}|\{\\text\s*\{\s*([a-z]+)\s*\}\s*\}|([0-9]))")


class ParseError(Exception):
    """The text is no expression of the grammar."""


class Refused(ParseError):
    """The text reads well enough to be known as no answer (a chain of equations, prose): no other parser may try."""


class TooCostly(Exception):
    """Evaluating the expression would exceed a budget."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


def _tokenise(text: str) -> list[_Token]:
    tokens, position = [], 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) > MAX_NODES:
            raise ParseError(f"not an expression at {text[position : position + 20]!r}")
        tokens.append(_Token(match.lastgroup or "", match.group(match.lastgroup or 0)))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens; nodes are tuples ("num", Fraction), ("var", name), ("+", a, b), ..."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokenise(text)
        self.position = 0
        self.depth = 0
        self.bars = 0  # how many |...| are open: inside one, a bar closes
        self.binding = False  # inside a sum, integral or limit: there is no second one

    def parse(self) -> Node:
        node = self.sum()
        if self.position != len(self.tokens):
            raise ParseError(f"unexpected {self.tokens[self.position].text!r}")
        return node

    def peek(self, offset: int = 0) -> str:
        index = self.position + offset
        return self.tokens[index].text if index < len(self.tokens) else ""

    def take(self, expected: str = "") -> _Token:
        if self.position >= len(self.tokens) or (expected and self.peek() != expected):
            raise ParseError(f"expected {expected or 'more'!r}")
        self.position += 1
        return self.tokens[self.position - 1]

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError("nested too deeply")

    def sum(self) -> Node:
        self.deeper()
        node = self.term()
        while self.peek() in ("+", "-"):
            node = (self.take().text, node, self.term())
        self.depth -= 1
        return node

    def term(self) -> Node:
        node = self.signed()
        while True:
            operator = self.peek()
            if operator in ("*", r"\times", r"\cdot"):
                self.take()
                node = ("*", node, self.signed())
            elif operator in ("/", r"\div"):
                self.take()
                node = ("/", node, self.signed())
            elif self.starts_factor():
                if self.tokens[self.position].kind == "number" and ("var", "i") not in (node, node[-1]):  # 3+i4
                    raise ParseError("two numbers side by side")
                node = ("*", node, self.power())
            else:
                return node

    def starts_factor(self) -> bool:
        if self.position >= len(self.tokens):
            return False
        token = self.tokens[self.position]
        if token.kind == "op":
            return token.text in ("(", "{", "[") or (token.text == "|" and self.bars == 0)
        if token.kind == "command":
            return token.text not in _CLOSERS
        return True

    def signed(self) -> Node:
        signs = 0
        while self.peek() in ("-", "+"):
            signs += self.take().text == "-"
        node = self.power()
        return ("neg", node) if signs % 2 else node

    def power(self) -> Node:
        self.deeper()
        node = self.postfix()
        if self.peek() == "^":
            self.take()
            if self.peek() == r"\circ":
                self.take()
                node = ("*", node, ("/", ("pi",), ("num", Fraction(180))))
            else:
                node = ("^", node, self.exponent())
        self.depth -= 1
        return node

    def exponent(self) -> Node:
        if self.peek() in ("-", "+"):
            return self.signed()
        return self.power()

    def postfix(self) -> Node:
        node = self.atom()
        while self.peek() in ("!", "%"):
            node = ("!", node) if self.take().text == "!" else ("/", node, ("num", Fraction(100)))
        return node

    def atom(self) -> Node:
        token = self.take()
        if token.kind == "number":
            return self.number(token.text)
        if token.kind == "letter":
            return self.name(token.text)
        if token.kind == "command":
            return self.command(token.text)
        if token.text in _OPEN:
            return self.closed(_OPEN[token.text])
        if token.text == "|" and self.bars == 0:
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.take("|")
            return ("abs", node)
        raise ParseError(f"unexpected {token.text!r}")

    def closed(self, bracket: str) -> Node:
        outer, self.bars = self.bars, 0
        node = self.sum()
        self.take(bracket)
        self.bars = outer
        return node

    def group(self) -> Node:
        self.take("{")
        return self.closed("}")

    def number(self, text: str) -> Node:
        mantissa, _, exponent = text.lower().partition("e")
        if len(mantissa) > MAX_DIGITS or (exponent and abs(int(exponent[:8])) > MAX_DIGITS):
            raise TooCostly("number with too many digits")
        if self.peek() == "_":
            return self.in_base(text)
        node: Node = ("num", Fraction(text if not text.endswith(".") else text[:-1]))
        if text.isdigit() and self.peek() == r"\frac":
            return self.mixed(node)
        return node

    def mixed(self, whole: Node) -> Node:
        """`2\\frac{1}{3}` is a mixed number where the fraction is a proper one of two literals, else a product."""
        self.take()
        above, below = self.group(), self.group()
        fraction = ("/", above, below)
        proper = above[0] == below[0] == "num" and 0 <= above[1] < below[1]
        return ("+", whole, fraction) if proper else ("*", whole, fraction)

    def in_base(self, digits: str) -> Node:
        self.take("_")
        braced = self.peek() == "{"
        if braced:
            self.take()
        base = self.take()
        if braced:
            self.take("}")
        if base.kind != "number" or not digits.isdigit() or base.text not in map(str, range(2, 11)):
            raise ParseError("subscript of a number that is no base")
        if any(int(digit) >= int(base.text) for digit in digits):
            raise ParseError(f"{digits} has a digit that base {base.text} lacks")
        return ("num", Fraction(int(digits, int(base.text))))

    def name(self, letter: str) -> Node:
        name = letter
        if self.peek() == "_":
            self.take()
            if self.peek() == "{":
                self.take()
                while self.peek() not in ("}", ""):
                    name += "_" + self.take().text
                self.take("}")
            else:
                name += "_" + self.take().text
        while self.peek() == "'":
            name += self.take().text
        return ("var", name)

    def command(self, command: str) -> Node:
        name = command[1:]
        if command in _CONSTANTS:
            return (_CONSTANTS[command],)
        if command == r"\frac":
            return ("/", self.fraction_part(), self.fraction_part())
        if command in (r"\sqrt", r"\cbrt"):
            return self.root(("num", Fraction(2 if command == r"\sqrt" else 3)))
        if command == r"\binom":
            return ("binom", self.group(), self.group())
        if command in _ROUNDING:
            kind, end = _ROUNDING[command]
            node = self.sum()
            self.take(end)
            return (kind, node)
        if command in _BOUND:
            return self.bound(_BOUND[command])
        if name in FUNCTIONS:
            return self.function(name)
        if name in _GREEK:
            return self.name(name)
        raise ParseError(f"unknown command {command}")

    def bound(self, kind: str) -> Node:
        """("bound", kind, name, low, high, body) of a sum, product, definite integral, or limit (where low is high)."""
        if self.binding:
            raise Refused("a sum or integral within another")
        self.binding = True
        if kind == "int":
            node = self.integral()
        else:
            self.take("_")
            self.take("{")
            name = self.name(self.take().text)[1]
            if kind == "lim" and self.take().text not in (r"\to", r"\rightarrow"):
                raise ParseError("a limit of nothing")
            if kind != "lim":
                self.take("=")
            low = high = self.closed("}")
            if kind != "lim":
                self.take("^")
                high = self.bracket_or_atom()
            node = ("bound", kind, name, low, high, self.term())
        self.binding = False
        return node

    def integral(self) -> Node:
        self.take("_")
        low = self.bracket_or_atom()
        self.take("^")
        high = self.bracket_or_atom()
        end = self.differential()
        inner = _Parser("")
        inner.tokens, inner.binding, inner.depth = self.tokens[self.position : end], True, self.depth
        self.position = end + 1
        name = self.name(self.take().text.removeprefix("\\"))[1]
        body = inner.parse() if inner.tokens else ("num", Fraction(1))
        return ("bound", "int", name, low, high, body)

    def bracket_or_atom(self) -> Node:
        if self.peek() == "{":
            return self.group()
        number = self.position < len(self.tokens) and self.tokens[self.position].kind == "number"
        return ("num", Fraction(self.take().text)) if number else self.atom()  # in `_0^1\\frac12` it is no mixed number

    def differential(self) -> int:
        """The position of the `d` of the `dx` that ends an integral."""
        depth = 0
        for index in range(self.position, len(self.tokens) - 1):
            token = self.tokens[index]
            depth += (token.text in _OPEN) - (token.text in ")]}")
            if depth == 0 and token.text == "d" and self.tokens[index + 1].kind in ("letter", "command"):
                return index
        raise ParseError("an integral without its variable")

    def fraction_part(self) -> Node:
        if self.peek() == "{":
            return self.group()
        return self.atom()

    def root(self, degree: Node) -> Node:
        if self.peek() == "[":
            self.take()
            degree = self.closed("]")
        inner = self.group() if self.peek() == "{" else self.atom()
        return ("root", inner, degree)

    def function(self, name: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        if name == "log" and self.peek() == "_":
            self.take()
            base = self.group() if self.peek() == "{" else self.atom()
        if self.peek() == "^":
            self.take()
            power = self.exponent()
        argument = self.argument()
        if power == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan"):
            return ("call", "arc" + name, argument)
        node: Node = ("call", name, argument)
        if base is not None:
            node = ("/", ("call", "ln", argument), ("call", "ln", base))
        return ("^", node, power) if power is not None else node

    def argument(self) -> Node:
        """What a function applies to: a group or parentheses, else the factors up to the next operator or function."""
        if self.peek() in ("(", "{", "["):
            return self.power()
        node = self.signed()
        while self.starts_factor() and self.tokens[self.position].kind != "number":
            if self.peek()[1:] in FUNCTIONS:
                break
            node = ("*", node, self.power())
        return node


@lru_cache(maxsize=1024)
def parse(text: str) -> Node:
    """The tree of an expression. Raises ParseError or TooCostly."""
    based = BASED.fullmatch(text)
    if based:
        return _in_base(based)
    return _Parser(text).parse()


def _in_base(match: re.Match[str]) -> Node:
    """`A3_{16}`, `(110)_2`, `110_{\\text{two}}`."""
    digits, base = match.group(1), match.group(2) or match.group(4) or _BASE_WORDS.get(match.group(3), "")
    if not base or not 2 <= int(base) <= 36:
        raise ParseError("subscript that is no base")
    try:
        return ("num", Fraction(int(digits, int(base))))
    except ValueError as failure:
        raise ParseError(f"{digits} has a digit that base {base} lacks") from failure


def size(node: Node) -> int:
    """How many nodes a tree has."""
    return 1 + sum(size(part) for part in node[1:] if isinstance(part, tuple))


def variables(node: Node) -> frozenset[str]:
    """The names of the variables; `e` and `i` are constants."""
    if node[0] == "var":
        return frozenset() if node[1] in ("e", "i") else frozenset({node[1]})
    if node[0] == "bound":
        return (variables(node[5]) - {node[2]}) | variables(node[3]) | variables(node[4])
    return frozenset().union(*(variables(part) for part in node[1:] if isinstance(part, tuple)))
