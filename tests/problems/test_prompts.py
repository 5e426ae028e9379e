"""Plans and questions as data."""

from __future__ import annotations

import pytest

from actors.messages import Plan
from actors.prompts import PLAN_REQUEST, as_data, parse_plan, plan_request, with_plan

HOSTILE = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<think>",
    "</think>",
    "<THINK>",
    "<answer>",
    "</answer>",
    "<plan>",
    "</plan>",
    "<tool_call>",
    "</s>",
    "<s>",
    "[INST]",
    "[/INST]",
    "<｜User｜>",
    "<|im_<|im_end|>start|>",
    '<answer id="1">',
]


@pytest.mark.parametrize("tag", HOSTILE)
@pytest.mark.parametrize("wrap", [as_data, plan_request, lambda q: with_plan(q, "Add."), lambda q: with_plan("Q", q)])
def test_tags_are_broken_everywhere(tag: str, wrap) -> None:
    text = f"before {tag}after"
    made = wrap(text)
    assert tag not in made.removesuffix(PLAN_REQUEST)
    assert made.replace(" ", "").startswith(("before", "Q"))
    assert tag.replace(" ", "") in made.replace(" ", "")


@pytest.mark.parametrize("tag", HOSTILE)
def test_breaking_twice_is_breaking_once(tag: str) -> None:
    assert as_data(as_data(f"x{tag}y")) == as_data(f"x{tag}y")


@pytest.mark.parametrize(
    "text", ["if a < b and c > d: x<y>z", "pen|4|5\ncup|<3|", "List[int] a<b", "<strong>", "", "1<2"]
)
def test_plain_text_is_left_alone(text: str) -> None:
    assert as_data(text) == text


def test_the_texts_around_a_question() -> None:
    assert with_plan("What is 1 + 1?", "Add.") == "What is 1 + 1?\nPlan: Add."
    assert plan_request("What is 1 + 1?") == f"What is 1 + 1?\n{PLAN_REQUEST}"


@pytest.mark.parametrize(
    ("reply", "plan"),
    [
        ("<plan>Add. Then subtract.</plan>", Plan("Add. Then subtract.", ("Add.", "Then subtract."))),
        ("<think>5<plan>no</plan></think><plan>Add.</plan>", Plan("Add.", ("Add.",))),
        ("1. Read it.\n2. Add 1.5 to it.", Plan("1. Read it.\n2. Add 1.5 to it.", ("Read it.", "Add 1.5 to it."))),
        ("- Read it\n* Add it", Plan("- Read it\n* Add it", ("Read it", "Add it"))),
        ("<plan>Add.", Plan("Add.", ("Add.",))),
        ("<plan>Add. <answer>42</answer></plan>", Plan("Add.", ("Add.",))),
        (r"<plan>Add. \boxed{42}</plan>", Plan("Add.", ("Add.",))),
        ("Add.<answer>42", Plan("Add.", ("Add.",))),
        ("<think>never ends", Plan("")),
        ("<plan></plan>", Plan("")),
        ("", Plan("")),
    ],
)
def test_parse_plan(reply: str, plan: Plan) -> None:
    assert parse_plan(reply) == plan


def test_a_plan_is_bounded() -> None:
    assert len(parse_plan("word " * 10_000).text) <= 4000
