"""Equality of mathematics: the policy, the forms, and what hostile answers may not do."""

from __future__ import annotations

import time

import pytest
from checker_problems import problem

from actors import checkers
from actors.checkers import math

EQUAL = [
    ("42", "42."), ("-0", "0"), ("0.5", r"\frac12"), ("0.5", ".5"), ("2.50", "5/2"), ("1/2", r"\frac{-1}{-2}"),
    ("7/3", r"2\frac{1}{3}"), ("7/3", "2 1/3"), ("1234567", "1{,}234{,}567"), ("10000", r"10\,000"), ("1000", "1,000"),
    ("1024", "2^{10}"), ("100", "1e2"), (r"6.02\times10^{23}", r"6.02 \cdot 10^{23}"), ("1000000", r"1\text{ million}"),
    ("12", r"\text{twelve}"), (r"\frac{1}{6}", r"0.1\overline{6}"), ("0.5", r"50\%"), (r"50\%", "50"), ("120", "5!"),
    ("5", "x=5"), ("x=5", "5"), ("2x+1", "y=2x+1"), ("x^2", "f(x)=x^2"), ("y=2x+1", "2x-y+1=0"), ("mn", "nm"),
    ("(x+1)^2", "x^2+2x+1"), ("2^{n+1}", r"2\cdot 2^n"), (r"\sqrt{x^2}", "|x|"), (r"\tan x", r"\frac{\sin x}{\cos x}"),
    (r"\sqrt{7+4\sqrt{3}}", r"2+\sqrt3"), ("2", "4^{1/2}"), (r"\ln 6", r"\ln 2+\ln 3"), (r"\log_2 8", "3"),
    ("-1", r"e^{i\pi}"), (r"1+\sqrt{3}i", r"2\operatorname{cis}60^\circ"), (r"\binom{5}{2}", "10"),
    ("(1,2)", r"\left(1, 2\right)"), ("1,2", "2, 1"), (r"\{1,2\}", "1,2"), ("-1,4", r"4 \text{ or } -1"),
    ("2,-2", r"\pm 2"), ("2,3", r"x=2 \text{ or } x=3"), (r"\emptyset", r"\{\}"), ("(1,2),(3,4)", "(3,4),(1,2)"),
    (r"[0,\infty)", r"x \ge 0"), (r"1\le x<2", "[1,2)"), (r"[1,3]\cup[2,5]", "[1,5]"),
    (r"\mathbb{R}", r"(-\infty,\infty)"),
    (r"x\neq 1", r"(-\infty,1)\cup(1,\infty)"), (r"(-\infty,0]\cup[4,\infty)", r"x\le 0 \text{ or } x\ge 4"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]"),
    (r"\begin{pmatrix}2&0\\0&2\end{pmatrix}", r"2\begin{bmatrix}1&0\\0&1\end{bmatrix}"),
    (r"10\text{ cm}", r"100\text{ mm}"), ("10", r"10\text{ cm}"), (r"12\text{ inches}", r"1\text{ foot}"),
    (r"16\pi\text{ cm}^2", r"16\pi"), (r"25\text{ m}^2", "25 square meters"), (r"90^\circ", "90"), (r"\$1,500", "1500"),
    (r"18\text{ square units}", "18"), (r"\text{cat}", "cat"), (r"\text{(C)}", "C"), (r"\text{True}", "true"),
    (r"\text{ellipse}", r"\text{an ellipse}"), ("7", r"\color{red}{7}"), ("101_2", "101_{2}"), (r"\frac12", "½"),
    ("2", "２"), ("-7", "−7"), (r"\infty", "∞"), ("x^2", "x²"), (r"\sqrt{2}", "√2"), ("5", "٥"),
    ("10^{10^{10}}", "10^{10^{10}}"), ("2", "(" * 1000 + "2" + ")" * 1000),
]  # fmt: skip

DIFFERENT = [
    ("100", "1"), ("5", "500"), ("5", "0.05"), ("10000", "10001"), ("0.1234567", "0.1234569"), ("1e-7", "2e-7"),
    ("12345678901234567890", "12345678901234567891"), (r"\frac13", "0.33"), (r"\pi", "3.14"), (r"5\%", "0.5"),
    (r"2\sqrt3", "3.46"), (r"\sqrt{2}", r"\sqrt{2}+10^{-16}"), (r"\sqrt[3]{3}", r"\sqrt{3}"), ("1/2", "1/2x"),
    ("x", "X"), ("101_2", "101_3"), (r"\frac{a}{b}", r"\frac{b}{a}"), ("x^2", "x^3"), ("|x|", "x"), (r"2\pi", "2"),
    ("y=2x+1", "y=2x-1"), ("8", "x=7=8"), ("7", r"\neq 7"), ("7", "< 7"), ("7", r"\neg 7"), ("7", r"\approx 7"),
    ("7", r"7 \text{ or } 8"), ("7", "7, 8"), ("2,3", "2"), ("1,2,3,4", "1234"), ("12, 34", "1234"), ("(1,2)", "(2,1)"),
    ("(1,2]", "(1,2)"), (r"\{0\}", r"\emptyset"), ("x>2", "x<2"), ("1<x<2", r"1<x\le2"), ("(2,3)", "(2,4)"),
    (r"10\text{ cm}", r"10\text{ m}"), (r"60\text{ mph}", r"60\text{ km/h}"), (r"16\text{ cm}^2", r"16\text{ cm}^3"),
    ("7", r"7\text{ apples and }3\text{ pears}"), ("7", r"\text{all numbers except }7"), (r"\text{act}", "cat"),
    ("7", r"7\text{ is wrong, it is }8"), ("0", r"\frac10"), ("0", r"\log(0)"), ("0", r"\tan(90^\circ)"),
    ("1", r"\frac00"), ("42", "\u202e24"), ("7", ""), ("7", " "), ("7", "..."), ("3+4i", "3-4i"),
]  # fmt: skip

BOMBS = [
    "((10!)!)!", "10^{10^{10}}", "1e1000000000", r"\binom{1000000000}{500000000}", r"(1+\sqrt{2})^{100000}", "9" * 5000,
    r"\sqrt{" * 200 + "2" + "}" * 200, r"\sin(" * 300 + "1" + ")" * 300, "1/" * 5000 + "1", "!" * 5000, "(x+y+z)^{500}",
    "x^{x^{x^{x^{x^{x}}}}}", r"\sin" * 500 + "x", "2^" * 300 + "2", "-" * 3000 + "3", "a" * 3000,
    "[" * 1500 + "]" * 1500,
    r"\int \frac{\sqrt{\tan x + \sqrt{\sin x}}}{x^5+x+1} dx", r"\sum_{n=1}^{10^{9}} n!", "1," * 1500, r"\frac" * 700,
    r"e^{e^{e^{e^{9}}}}", r"\cosh(10^{9})", r"\pm" * 500, "{" * 1999 + "}" * 1999, r"\text{" * 500,
]  # fmt: skip

INJECTIONS = [
    "__import__('os').system('touch {file}')", "exec(\"open('{file}','w')\")", "open('{file}','w') and 2",
    "[__import__('os').system('touch {file}'),2]", "().__class__.__bases__[0].__subclasses__()", "print(2) or 2",
    "sympify('2')", "2 if 1 else 3", "[x for x in range(10**9)]", "lambda: 2", "len('ab')",
]  # fmt: skip


@pytest.mark.parametrize(("truth", "answer"), EQUAL, ids=range(len(EQUAL)))
def test_equal(truth: str, answer: str) -> None:
    assert math.compare(truth, answer)[0] is True
    assert math.compare(answer, truth)[0] is True


@pytest.mark.parametrize(("truth", "answer"), DIFFERENT, ids=range(len(DIFFERENT)))
def test_different(truth: str, answer: str) -> None:
    assert math.compare(truth, answer)[0] is False


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_a_bomb_is_wrong_and_quick(bomb: str) -> None:
    started = time.perf_counter()
    verdict = checkers.check(problem("math", "2"), f"<answer>{bomb}</answer>")
    assert verdict.status == "incorrect"
    assert time.perf_counter() - started < 1.5


@pytest.mark.parametrize("code", INJECTIONS, ids=range(len(INJECTIONS)))
def test_no_answer_is_ever_executed(code: str, tmp_path) -> None:
    touched = tmp_path / "pwned"
    for truth in ("2", r"2\pi", r"\begin{pmatrix}1\\2\end{pmatrix}"):
        assert math.compare(truth, code.replace("{file}", str(touched)))[0] is False
    assert not touched.exists()


@pytest.mark.parametrize(
    ("text", "truth", "status"),
    [
        (r"<think>maybe \boxed{5}</think>The answer is \boxed{6}.", "6", "correct"),
        (r"<think>maybe \boxed{5}</think>The answer is \boxed{6}.", "5", "incorrect"),
        ("</think>42", "42", "correct"),
        ("</think>The answer is 42.", "42", "incorrect"),
        ("A long argument.\nSo it ends.\n**Answer: $42$**", "42", "correct"),
        ("A long argument.\nAnswer: 42\nOr not.", "42", "incorrect"),
        (r"First \boxed{3}. Then, finally: \boxed{5}.", "5", "correct"),
        (r"\boxed{3} and \boxed{5}", "3,5", "correct"),
        (r"\boxed{3} or \boxed{5}", "5", "incorrect"),
        (" ".join(rf"\boxed{{{i}}}" for i in range(20)), "19", "incorrect"),
        (r"The answer is not \boxed{2}.", "2", "incorrect"),
        (r"The answer is \boxed{7", "7", "incorrect"),
        ("<think>7", "7", "incorrect"),
        ("<answer>7", "7", "incorrect"),
    ],
)
def test_responses(text: str, truth: str, status: str) -> None:
    assert checkers.check(problem("math__starter", truth), text).status == status


def test_math_verify_is_the_last_stage() -> None:
    equal, reason = math.compare(r"3\sqrt{2}", r"\sqrt{2}3")
    assert equal and "math-verify" in reason


def test_the_last_stage_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(truth: str, answer: str) -> bool:
        while True:
            len(answer)

    monkeypatch.setattr(math, "MATH_VERIFY_S", 0.01)
    monkeypatch.setattr(math, "_math_verify", endless)
    equal, reason = math.compare(r"3\sqrt{2}", r"\sqrt{2}3")
    assert not equal and "took more than" in reason
