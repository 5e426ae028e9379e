"""Where the final answer stands."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from actors.checkers.extract import NoAnswer, boxes, code_block, fences, final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>7</answer>", "7"),
        ("<think>1</think><answer> 7\n</answer>", "7"),
        ("<think><answer>1</answer></think><answer>7</answer>", "7"),
        ("<answer>1</answer> no: <answer>7</answer>", "7"),
        ("<answer> <answer>7</answer> </answer>", "7"),
        ("<answer>so \\boxed{7}</answer>", "7"),
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\boxed{17}}", "17"),
        ("\\boxed 7.", "7"),
        ("\\fbox{7}", "7"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("a </think> b </think> \\boxed{7}", "7"),
    ],
)
def test_final_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>\\boxed{7}", "thinking never ended"),
        ("<think>1</think><think><answer>7</answer>", "thinking never ended"),
        ("<think>\\boxed{7}</think> that is it", "neither"),
        ("<answer>7", "never closed"),
        ("<answer>7</answer> or <answer>8", "never closed"),
        ("\\boxed{7", "never closed"),
        ("<answer> </answer>", "empty"),
        ("", "neither"),
    ],
)
def test_no_answer(text: str, reason: str) -> None:
    with pytest.raises(NoAnswer, match=reason):
        final_answer(text)


def test_bare_text_counts_only_up_to_the_limit() -> None:
    assert final_answer("<think>x</think> 42 ", bare_limit=10) == "42"
    with pytest.raises(NoAnswer):
        final_answer("4" * 11, bare_limit=10)


@pytest.mark.parametrize(
    "hostile",
    ["\\boxed{" * 60_000, "\\boxed" * 60_000, "{" * 300_000, "\\boxed{" * 20_000 + "}" * 20_000],
    ids=["unclosed", "commands", "braces", "nested"],
)
def test_box_scan_is_linear(hostile: str) -> None:
    started = time.process_time()  # of this process alone: a busy machine does not count
    with suppress(NoAnswer):  # an unclosed box is the right outcome for some of these
        boxes(hostile)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na = 1\n```", "a = 1"),
        ("<think>```python\nb\n```</think>```python\na = 1\n```", "a = 1"),
        ("```python\nold\n```\n```python\nnew\n```", "new"),
        ("```python\ncode\n```\nprints\n```\n3\n```", "code"),
        ("```\ncode\n```", "code"),
        ("```python\ncode```\nprints\n```\n3\n```", "code"),
        ("<answer>```py\ncode\n```</answer>", "code"),
        ("<answer>\ndef f(x):\n    return x\n</answer>", "def f(x):\n    return x"),
    ],
)
def test_code_block(text: str, code: str) -> None:
    assert code_block(text) == code


@pytest.mark.parametrize(
    "text", ["```python\nprint(1)", "print(1)", "<answer>```python\nx</answer>", "```json\n{}\n```"]
)
def test_no_code(text: str) -> None:
    with pytest.raises(NoAnswer):
        code_block(text)


def test_fences_keep_their_language() -> None:
    assert [(f.language, f.content) for f in fences("```JSON\n{}\n```\n~~~\nx\n~~~")] == [("json", "{}"), ("", "x")]
