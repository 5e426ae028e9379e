"""Published traces as chat messages: what is used, what is mended, what is refused and why."""

from __future__ import annotations

import pytest

from rl.problems.am_thinking import Malformed, messages_of
from rl.problems.schema import RowError

GOOD = "<think>two and two</think><answer>4</answer>"


def chat(*texts: str, names: tuple[str, str] = ("human", "assistant")) -> dict:
    return {"conversations": [{"from": names[i % 2], "value": text} for i, text in enumerate(texts)]}


def test_roles_and_texts_are_kept_and_fields_beside_them_dropped():
    raw = chat("2+2?", GOOD)
    raw["conversations"][1]["info"] = {"score": 1.0}
    raw |= {"system": "Be nice.", "info": {"lang": "en"}}
    assert messages_of(raw) == [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": GOOD}]


def test_other_spellings_of_the_same():
    assert messages_of(chat("2+2?", GOOD, names=("user", "gpt"))) == messages_of(chat("2+2?", GOOD))
    as_messages = {"messages": messages_of(chat("2+2?", GOOD))}
    assert messages_of(as_messages) == as_messages["messages"]


def test_a_system_turn_is_dropped_from_traces_and_kept_in_own_examples():
    raw = {"messages": [{"role": "system", "content": "s"}, *messages_of(chat("2+2?", GOOD))]}
    assert [m["role"] for m in messages_of(raw)] == ["user", "assistant"]
    assert [m["role"] for m in messages_of(raw, traces=False)] == ["system", "user", "assistant"]


def test_an_answer_without_tags_gets_them():
    assert messages_of(chat("q", "<think>t</think>\n42"))[1]["content"] == "<think>t</think><answer>\n42</answer>"


def test_earlier_turns_may_do_without_thinking():
    assert [m["content"] for m in messages_of(chat("hi", "hello", "2+2?", GOOD))] == ["hi", "hello", "2+2?", GOOD]


@pytest.mark.parametrize("texts,reason", [
    (("q", "just 42"), "without </think>"),
    (("q", "<think>and on and on"), "without </think>"),
    (("q", "so</think><answer>4</answer>"), "does not begin with <think>"),
    (("q", "<think>a</think><think>b</think><answer>4</answer>"), "thinks twice"),
    (("q", "<think>a</think>"), "empty answer"),
    (("q", "<think>a</think><answer> \n</answer>"), "empty answer"),
    (("q", "<think>a</think><answer>4"), "does not end"),
    (("q", "<think>a</think>so <answer>4</answer>"), "outside of its tags"),
    (("q",), "does not end with the assistant"),
    (("q", "<think>open", "more?", GOOD), "without </think>"),
    ((" ", GOOD), "empty question"),
])
def test_a_broken_trace_is_no_example(texts, reason):
    with pytest.raises(Malformed, match=reason) as error:
        messages_of(chat(*texts), "math.jsonl, row 3")
    assert str(error.value).startswith("math.jsonl, row 3: column conversations ")


def test_two_users_in_a_row_are_no_chat():
    raw = chat("a", GOOD)
    raw["conversations"].insert(0, {"from": "human", "value": "b"})
    with pytest.raises(Malformed, match="take turns: user, user, assistant"):
        messages_of(raw)


@pytest.mark.parametrize("raw,column,reason", [
    ({"text": "x"}, "conversations", r"is missing, and so is messages \(columns found: text\)"),
    ({"conversations": "x"}, "conversations", "should hold a list of turns"),
    ({"conversations": [{"from": "human"}]}, "conversations", "should hold turns"),
    ({"conversations": [{"from": "tool", "value": "x"}]}, "conversations", "names the role 'tool'"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages", "should hold turns"),
])
def test_a_broken_row_names_its_column(raw, column, reason):
    with pytest.raises(RowError, match=reason) as error:
        messages_of(raw)
    assert error.value.column == column and not isinstance(error.value, Malformed)
