"""Science: multiple choice, numbers with units, and otherwise the equality of mathematics.

A choice that cannot be read is incorrect: never a guess.
"""

from __future__ import annotations

import re

from actors.checkers import math
from actors.checkers.extract import answer_tag, boxes, final_part
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict

_CHOICE_TRUTH = re.compile(r"\(?([A-J])\)?")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed|bf|rm)\b|[{}$*\\]")
_LETTER = re.compile(r"\(?([A-Ja-j])(?:\)|[.:](?=\s|$)|$)")
_NAMED = re.compile(r"\b(?:answer|option|choice)\b\s*(?:is\b\s*:?|:)?\s*\(?([A-J])\b\)?", re.I)
_STATED = re.compile(
    r"\W*(?i:(?:so|thus|therefore),? )?(?i:the )?(?i:(?:final|correct|best) )?"
    r"((?i:answer|option|choice)\W*(?i:is\b\s*:?|(?<=:))[\s$*]*\\?\(?(?:[A-J]\b.*|[a-j]\W*))"
)
_STATEMENT_LIMIT = 200  # characters of a line that states a choice
_LOOSE = re.compile(r"(?:answer|choice|option)\s*(?:is|:)\s*\$?\(?([A-J])\)?\b", re.I)


def check(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Judge a choice, a quantity, or an expression, as the ground truth is one."""
    truth = str(problem.truth).strip()
    choice = _CHOICE_TRUTH.fullmatch(truth)
    if choice is None:
        return math.check(problem, text, tools)
    answer = _chosen(text)
    letter = read_choice(answer)
    if letter is None:
        return Verdict("incorrect", 0.0, extracted=answer[:500], reason="no single choice to be read")
    right = letter == choice.group(1)
    return Verdict("correct" if right else "incorrect", float(right), extracted=letter, reason=f"chose {letter}")


def _chosen(text: str) -> str:
    """The last box or `<answer>`; where a prompt asked for neither, the choice in the last line "Answer: X"."""
    part = final_part(text)
    if answer_tag(part) is None and not boxes(part):
        for line in reversed(part.splitlines()):
            stated = _STATED.fullmatch(line[:_STATEMENT_LIMIT])
            if stated:
                return stated.group(1)
    return math.extract(text)


def read_choice(answer: str) -> str | None:
    """The one option A..J that an answer names ("B", "(B)", "B. 42 m", "\\textbf{(B)}"); None for none or several."""
    plain = _WRAPPER.sub("", answer).strip()
    named = {letter.upper() for letter in _NAMED.findall(plain) + _LOOSE.findall(plain)}
    first = _LETTER.match(plain)
    letters = named | ({first.group(1).upper()} if first else set())
    # "B or C", "(A), (C)": further options in parentheses or after a conjunction make it no choice at all
    letters |= set(re.findall(r"\(([A-J])\)", plain)) | set(
        re.findall(r"(?:\bor\b|\band\b|[,/&])\s*\(?([A-J])\b", plain)
    )
    letters |= set(re.findall(r"([A-J])\)?\s*(?:\bor\b|\band\b|[,/&])", plain))
    return letters.pop() if len(letters) == 1 else None
