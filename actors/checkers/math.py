"""Mathematics: staged equality of a final answer and the ground truth.

The stages, from cheap to dear; the first that decides wins: the same spelling -> words -> quantities with units ->
structures (lists, sets, tuples, intervals, matrices, relations) elementwise -> expressions, exactly and then
numerically -> math-verify, for what this grammar does not read. The policy: equality of value; a missing unit is fine,
a wrong one is not; the order of a list or set is free, of a tuple not; `x=5` answers 5; a rounded decimal is not an
exact value; what hedges or denies itself is wrong.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from functools import cache

from actors.checkers import equality, evaluate, latex_text, values
from actors.checkers.expression import ParseError, Refused, TooCostly
from actors.checkers.extract import Box, NoAnswer, answer_tag, boxes, final_part
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict

BARE_LIMIT = 120  # characters: without a box or a tag, a short rest of one line is the answer
MATH_VERIFY_S = 1.0  # of the last stage
MAX_BOXES = 8  # distinct boxes in one answer; more is guessing
_DENIAL = re.compile(
    r"(?:\b(?:not|never|cannot|anything but|incorrectly|wrong to (?:say|answer)|no longer)|n't)"
    r"\s*(?:be|equal to|equals?|say|answer|simply|just)?[\s$(*:]*$"
    r"|\b(?:wrong|incorrect|false|mistaken)\s+(?:\w+\s+){0,2}?(?:answer|value|result|solution)?\s*"
    r"(?:is|was|of|would be|be|:)\s*[\s$(*:]*$",
    re.I,
)
_TAKEN_BACK = re.compile(
    r"[\s$).,;:!?*]*(?:(?:no|but|this|that|it|which|and)\b[\s,]*){0,3}(?:is|was|would be|isn't|wasn't|'s)\s+"
    r"(?:(?:definitely|clearly|certainly|just|simply|the|a|an|of course|actually)\s+)*"
    r"(?:(?:wrong|incorrect|false|mistaken|invalid)\b|not\s+(?:the|my|our|correct|right|true|valid|it|what)\b)"
    r"|[\s$).,;:!?*]*(?:just kidding|no, wait|wait, no)\b",
    re.I,
)
_STATED = re.compile(r"[\s*]*(?:final\s+)?answer[\s*]*:[\s*]*(\S.*?)[\s*.]*", re.I)  # the last line of DAPO's prompts
_BETWEEN_OR = re.compile(
    r"[\s$.,;/()]*(?:\\text\s*\{\s*or\s*\}|\b(?:or|alternatively|or (?:maybe|possibly|perhaps|else|even))\b)?"
    r"[\s$.,;()]*",
    re.I,
)
_BETWEEN_AND = re.compile(r"[\s$]*(?:,|,?\s*(?:\band\b|\\text\s*\{\s*and\s*\}))[\s$]*", re.I)


def check(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Whether the last box (or `<answer>`, or a short bare rest) of `text` equals the ground truth."""
    answer = extract(text)
    equal, reason = compare(str(problem.truth), answer)
    status = "correct" if equal else "incorrect"
    return Verdict(status, float(equal), extracted=answer[:500], reason=reason)


def extract(text: str) -> str:
    """The final answer: in `<answer>`, in boxes, in a last line "Answer: X", or all of a short bare rest.

    Raises NoAnswer where there is none, or where it hedges or denies itself.
    """
    part = final_part(text)
    tagged = answer_tag(part)
    scope = part if tagged is None else tagged
    found = boxes(scope)
    if found:
        return _from_boxes(scope, found)
    if tagged:
        return tagged
    rest, _, last_line = scope.strip().rpartition("\n")
    if tagged is None and last_line and len(last_line) <= BARE_LIMIT:
        stated = _STATED.fullmatch(last_line)
        if stated or not rest:
            return stated.group(1) if stated else last_line
    raise NoAnswer("no answer: neither <answer> nor \\boxed{}")


def _from_boxes(scope: str, found: list[Box]) -> str:
    """The last box, joined with the ones before it where the text lists them: `\\boxed{3} and \\boxed{5}`."""
    distinct: set[str] = set()
    for box in found:  # one by one: the contents of nested boxes, all together, are quadratic in their number
        distinct.add(box.content)
        if len(distinct) > MAX_BOXES:
            raise NoAnswer("no answer: too many different boxes")
    last = found[-1]
    if _DENIAL.search(scope[max(0, last.start - 40) : last.start]):
        raise NoAnswer("no answer: the text denies its box")
    if _TAKEN_BACK.match(scope[last.end : last.end + 80]):
        raise NoAnswer("no answer: the text takes its box back")
    contents = [last.content]
    for before, after in zip(found[-2::-1], found[:0:-1], strict=True):
        between = scope[before.end : after.start]
        if before.end > after.start or len(between) > 20 or before.content == last.content:
            break
        if _BETWEEN_AND.fullmatch(between):
            contents.insert(0, before.content)
        elif _BETWEEN_OR.fullmatch(between):
            raise NoAnswer("no answer: several boxes, and no choice between them")
        else:
            break
    return ", ".join(contents)


def compare(truth: str, answer: str) -> tuple[bool, str]:
    """(equal, reason) of two pieces of LaTeX or text, neither in a box."""
    if not answer.strip():
        return False, "empty answer"
    try:
        left, right = latex_text.clean(truth), latex_text.clean(answer)
    except latex_text.Unreadable as unreadable:
        return False, str(unreadable)
    if not right:
        return False, "empty answer"
    if _spelled_alike(left, right):
        return True, "same spelling"
    try:
        return equality.equal(values.read(left), values.read(right)), "compared by value"
    except evaluate.Undefined as undefined:
        return False, f"undefined: {undefined}"
    except TooCostly as costly:
        return False, f"too costly to evaluate: {costly}"
    except Refused as refused:
        return False, str(refused)
    except ParseError as unread:
        reason = str(unread)
    if affordable(left) and affordable(right):
        _load_math_verify()
        try:
            return _within(MATH_VERIFY_S, lambda: _math_verify(left, right)), "compared by math-verify"
        except _OverBudget:
            reason = f"math-verify took more than {MATH_VERIFY_S} s"
    return False, f"not comparable: {reason}"


def _spelled_alike(left: str, right: str) -> bool:
    if not re.search(r"[0-9a-zA-Z]", right) and not re.search(r"[0-9a-zA-Z]", left):
        return left == right
    plain = [latex_text.compact(_TEXT.sub(r"\1", text)) for text in (left, right)]
    if _TEXT.search(left) or _TEXT.search(right):  # in words, case does not matter
        plain = [text.casefold() if _WORDS.search(text) else text for text in plain]
    return plain[0] == plain[1]


_WORDS = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{2,}")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_PLAIN = re.compile(r"[0-9a-zA-Z\\{}()\[\]^_+\-*/|,.& ]*")
_BIG = re.compile(r"\d{30}|\^\s*\{?\s*-?\d{3}|\^[^,]{0,20}\^[^,]{0,20}\^|!|[^\\]\\\\[^\\]*$")
_READABLE = frozenset(
    "frac sqrt left right pi infty sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp cdot "
    "times alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi omega begin end binom".split()
)
_NAME = re.compile(r"\\([a-zA-Z]+)")
_MALFORMED = re.compile(r"\.\.|\d \d|^[\^_]|[-+*/^_\\]$|^[^\\]*&")
_WORD = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{3,}")


def affordable(text: str) -> bool:
    """Whether math-verify may see `text`: short, shallow, no huge powers or factorials, and mathematics that this
    project's own grammar lacks, not prose: of what it cannot read, it takes the last number as the answer.
    """
    depth = deepest = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    names = _NAME.findall(text)
    return (
        0 < len(text) < 200
        and deepest <= 8
        and depth == 0
        and text.count("|") in (0, 2, 4)
        and len(names) <= 12
        and set(names) <= _READABLE
        and _PLAIN.fullmatch(text) is not None
        and not _BIG.search(text)
        and not _MALFORMED.search(text)
        and re.search(r"[0-9a-zA-Z]", text) is not None
        and not _WORD.search(text)
    )


class _OverBudget(BaseException):
    """Not an Exception, so that no handler in the library takes it for one of its own."""


def _within(seconds: float, work: Callable[[], bool]) -> bool:
    """Run a library's Python code for at most so long, in any thread and without signals. Raises _OverBudget."""
    deadline, before = time.perf_counter() + seconds, sys.getprofile()

    def watch(*_: object) -> None:
        if time.perf_counter() > deadline:
            raise _OverBudget

    sys.setprofile(watch)
    try:
        return work()
    finally:
        sys.setprofile(before)


@cache
def _load_math_verify() -> None:
    """Its imports, some of them at its first use, take seconds, once a process: not of an answer's budget."""
    _math_verify("x", "1")


def _math_verify(truth: str, answer: str) -> bool:
    """The library's opinion of two texts that are `affordable`: cleaned ones, as nothing of the raw ones is bounded.

    Its own time-outs need signals in a main thread: the caller's deadline does that work.
    """
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns, on every call, that its time-outs are off
    gold = parse(f"${truth}$", parsing_timeout=None)
    said = parse(f"${answer}$", parsing_timeout=None)
    return bool(gold and said and verify(gold, said, timeout_seconds=None))
