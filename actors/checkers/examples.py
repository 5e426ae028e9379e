"""The examples that a programming question states: tests that everyone may see, without a ground truth.

Read are doctests (`>>> f(2)`), calls with their result (`f(2) == 5`, `f(2) -> 5`, `assert f(2) == 5`), and pairs of
`Input:` and `Output:`. What is not certain is left out: no test is better than one that the question does not state.
Nothing is evaluated but literals.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actors.checkers.plain import encode

MAX_TESTS = 16
MAX_QUESTION = 50_000  # characters
MAX_LITERAL = 2000

_OTHER_LANGUAGE = re.compile(
    r"\b(?:javascript|typescript|java|kotlin|swift|rust|golang|haskell|ruby|php|perl|scala|sql|bash|fortran|lua)\b"
    r"|\bc\+\+|\bc#|\bin (?:c|go|r)\b(?!-)",
    re.IGNORECASE,
)
_TASK = re.compile(
    r"\b(?:write|implement|complete|create|build|code|fix)\b[^.?!\n]{0,80}?"
    r"\b(?:function|program|method|class|script|subroutine|code|python)\b",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(r"^\s*(?:async\s+)?def\s+([A-Za-z_]\w*)\s*\(", re.MULTILINE)
_NAMED = re.compile(r"\b(?:function|method)\s+(?:called\s+|named\s+)?[`*'\"]*([A-Za-z_]\w*)(?=[`*'\"]*\s*\(|[`*'\"])")
_CALL = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\(")
_RELATION = re.compile(
    r"[)\s`*]*(?:==|=>|->|→|⇒|➞|#+\s*(?:=>|->|→|returns?)?|\b(?:should\s+)?(?:returns?|equals?|gives|yields|be|is)\b)"
    r"[\s`*]*"
)
_ATOM = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|True\b|False\b|None\b|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_GOES_ON = re.compile(r"\w|[.,]\d|\s*[-+*/%@|&^<>]+\s*[\w([{'\"]")
_LABEL = re.compile(
    r"^[\s#*>_-]*(?:(?:sample|example|expected)\s+)?(input|output)\s*\d{0,2}\s*[*_]*\s*(?::[*_]*[ \t]*(.*))?$",
    re.IGNORECASE,
)
_SECTION_END = re.compile(r"^[\s#*>_-]*(?:explanation|note|notes|constraints?|examples?|sample)\b", re.IGNORECASE)
_ONE_LINE = re.compile(r"\binput\s*:\s*(.{1,300}?)[\s,;]+output\s*:\s*(.+)", re.IGNORECASE)
_PROSE = re.compile(r"\b(?:the|contains?|prints?|lines?|integers?|single|given|consists?|denot\w+|a string)\b", re.I)
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True)
class CallTest:
    """`function(*args)` returns `expected`; both are plain values."""

    function: str
    args: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True)
class ProgramTest:
    """A program that reads `stdin` prints `stdout`."""

    stdin: str
    stdout: str


PublicTest = CallTest | ProgramTest


def asks_for_python(question: str) -> bool:
    """Whether a Python program answers the question (and not one in a language that nothing here can run)."""
    question = question[:MAX_QUESTION]
    if _OTHER_LANGUAGE.search(question) and not re.search(r"\bpython", question, re.IGNORECASE):
        return False
    return bool(_TASK.search(question) or _signature_to_fill(question))


def _signature_to_fill(question: str) -> bool:
    """A `def` whose body is missing: only its docstring, `pass` or `...` follows, or nothing."""
    for match in itertools.islice(_SIGNATURE.finditer(question), MAX_TESTS):
        rest = question[match.end() : match.end() + MAX_LITERAL]
        body = re.sub(r'""".*?"""|\'\'\'.*?\'\'\'', "", rest.partition(":\n")[2], flags=re.DOTALL)
        if not re.search(r"^[ \t]+\w", re.sub(r"^[ \t]+(?:pass|\.\.\.)[ \t]*$", "", body, flags=re.M), re.M):
            return True
    return False


def function_name(question: str) -> str | None:
    """The function that the question asks for by name."""
    for pattern in (_SIGNATURE, _NAMED):
        found = pattern.search(question[:MAX_QUESTION])
        if found:
            return found.group(1)
    return None


def public_tests(question: str) -> list[PublicTest]:
    """The examples stated in the question, each once, at most 16."""
    question = question[:MAX_QUESTION]
    tests: list[PublicTest] = []
    for test in (*_doctests(question), *_calls(question), *_pairs(question)):
        if test not in tests:
            tests.append(test)
    return tests[:MAX_TESTS]


def _doctests(question: str) -> Iterator[CallTest]:
    try:
        examples = doctest.DocTestParser().get_examples(question)
    except ValueError:  # prompts that are not indented alike
        return
    for example in examples:
        wanted = re.split(r"\"{3}|'{3}", example.want)[0]  # the docstring may end on the next line
        call, result = _call(example.source.strip()), _literal(wanted.strip())
        if call is not None and result is not None:
            yield CallTest(*call, result.value)


def _calls(question: str) -> Iterator[CallTest]:
    """`f(2) == 5` and its like, anywhere in a line."""
    lines = (line[:MAX_LITERAL] for line in question.splitlines())
    starts = ((line, start.start()) for line in lines for start in _CALL.finditer(line))
    for line, start in itertools.islice(starts, 8 * MAX_TESTS):
        source = _balanced(line, start)
        call, relation = _call(source), _RELATION.match(line, start + len(source))
        if call is not None and relation:
            result = _leading_literal(line[relation.end() :])
            if result is not None:
                yield CallTest(*call, result.value)


@dataclass(frozen=True)
class _Value:
    """A literal's value, which may be None."""

    value: Any


def _literal(text: str) -> _Value | None:
    """The plain value that a literal spells; None for what is no literal, or a tuple without parentheses."""
    if not text or len(text) > MAX_LITERAL:
        return None
    try:
        value = ast.literal_eval(text)
        encode(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return None if isinstance(value, tuple) and not text.startswith("(") else _Value(value)


def _leading_literal(text: str) -> _Value | None:
    """The literal that the text begins with, if the expression ends with it: 3 + x is not 3."""
    atom = _ATOM.match(text)
    source = _balanced(text, 0) if text[:1] in ("(", "[", "{") else atom.group() if atom else ""
    return None if _GOES_ON.match(text, len(source)) else _literal(source)


def _balanced(line: str, start: int) -> str:
    """The call that begins at `start`: up to the bracket that closes its first one, brackets in strings aside."""
    depth, quote, position = 0, "", start
    while position < len(line):
        character = line[position]
        if quote:
            position += character == "\\"
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
            if character in ")]}" and depth == 0:
                return line[start : position + 1]
        position += 1
    return ""


def _call(source: str) -> tuple[str, tuple[Any, ...]] | None:
    """(function, arguments) of a call with nothing but positional literals, of a function that is no builtin."""
    try:
        node = ast.parse(source, mode="eval").body
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.keywords:
        return None
    if node.func.id in _BUILTINS:
        return None
    arguments = [_literal(f"({ast.unparse(argument)})") for argument in node.args]
    return None if None in arguments else (node.func.id, tuple(argument.value for argument in arguments))


def _pairs(question: str) -> Iterator[PublicTest]:
    """Examples told as an input and an output."""
    function = function_name(question)
    for given, wanted in (*_sections(question), *_ONE_LINE.findall(question)):
        given, wanted = given.strip("`\n"), wanted.strip("`\n")
        if not wanted.strip() or _PROSE.search(given) or _PROSE.search(wanted):
            continue
        result, arguments = _literal(wanted.strip()), _arguments(given)
        if function is None:
            yield ProgramTest(given + "\n", wanted + "\n")
        elif result is not None and arguments is not None:
            yield CallTest(function, arguments, result.value)


def _arguments(given: str) -> tuple[Any, ...] | None:
    """The values of `nums = [2, 7], target = 9`, or of literals with commas between them."""
    try:
        call = ast.parse(f"f({' '.join(given.split())})", mode="eval").body
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(call, ast.Call):
        return None
    values = [_literal(f"({ast.unparse(node)})") for node in (*call.args, *(word.value for word in call.keywords))]
    return None if None in values else tuple(value.value for value in values)


def _sections(question: str) -> Iterator[tuple[str, str]]:
    """Each labelled input with the labelled output that follows it."""
    given: str | None = None
    lines = question.splitlines()
    for number, line in enumerate(lines):
        label = _LABEL.match(line)
        if label is None:
            continue
        content = _content(label.group(2) or "", lines[number + 1 :])
        if label.group(1).lower() == "input":
            given = content
        elif given is not None:
            yield given, content
            given = None


def _content(first: str, following: list[str]) -> str:
    """What a label introduces: the rest of its line, else the lines up to a blank one, a label, or a fence's end."""
    if first.strip("` "):
        return first.strip()
    taken: list[str] = []
    fenced = False
    for line in following:
        if line.strip().startswith("```"):
            if fenced or taken:
                break
            fenced = True
        elif _LABEL.match(line) or _SECTION_END.match(line) or (not line.strip() and taken and not fenced):
            break
        elif line.strip() or fenced:
            taken.append(line)
    return "\n".join(taken)
