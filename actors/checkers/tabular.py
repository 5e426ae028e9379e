"""Tables: one or several short answers, joined by `|`, in any order; numbers by value, words without regard to case.

Tables of shares leave the unit out: 12.5% answers 12.5 as well as 0.125, but 12.5 is not 0.125.
"""

from __future__ import annotations

import re
from fractions import Fraction

from actors.checkers.extract import final_answer
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict

MAX_PARTS = 100
BARE_LIMIT = 200  # characters: without a box or tag, a short rest is the answer
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")
_PERCENT = re.compile(r"%[\s.$}]*$")
_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*(?=\{)|\\[,;! ]")


def check(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Whether the parts of the answer are those of the ground truth, each as often."""
    truth = problem.truth
    answer = final_answer(text, bare_limit=BARE_LIMIT)
    wanted = [str(item) for item in truth] if isinstance(truth, list) else str(truth).split("|")
    right = _same_multiset(wanted, _parts(answer, len(wanted)))
    return Verdict(
        "correct" if right else "incorrect",
        float(right),
        extracted=answer[:500],
        reason="" if right else "another answer",
    )


def _parts(answer: str, expected: int) -> list[str]:
    parts = answer.split("|")
    # several answers are sometimes listed with commas; one answer may hold commas of its own
    return answer.split(", ") if len(parts) == 1 and expected > 1 else parts


def _same_multiset(wanted: list[str], said: list[str]) -> bool:
    if len(wanted) != len(said) or len(wanted) > MAX_PARTS:
        return False
    rest = list(said)
    for part in wanted:
        match = next((other for other in rest if _same(part, other)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _same(wanted: str, said: str) -> bool:
    left, right = _normal(wanted), _normal(said)
    if left != right and isinstance(left, Fraction) and isinstance(right, Fraction):
        shares = bool(_PERCENT.search(wanted)), bool(_PERCENT.search(said))
        return (shares == (True, False) and left == 100 * right) or (shares == (False, True) and right == 100 * left)
    return left == right


def _normal(part: str) -> Fraction | str:
    """A number's exact value (a per cent sign, currency and thousands separators do not count), else plain words."""
    plain = re.sub(r"[{}$]|\\(?=[$%&#])", "", _LATEX.sub("", part)).strip().strip("*`\"'").strip()
    plain = re.sub(r"\s+", " ", plain.replace("−", "-")).lower()
    number = plain.removesuffix("%").removesuffix(".").strip().lstrip("€£")
    if len(number) < 100 and _NUMBER.fullmatch(number):
        return Fraction(number.replace(",", ""))
    return plain.removesuffix(".")
