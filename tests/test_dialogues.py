"""Dialogues: masks by hand and by the templates' text, rows of files by number, and what is broken in them."""

from __future__ import annotations

import hashlib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import UserError
from conf.load import load
from rl.dialogues import LINES, Dialogues, encode, survey
from rl.sft_data import StarterSource
from rl.starting_model import template_path

# No engine, but a tokenizer: transformers takes longer to import than all pure tests take to run.
pytestmark = pytest.mark.engine

FORGETFUL = (  # as Qwen3's: the thinking of earlier answers is dropped once a question follows
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained("assets/starter")


@pytest.fixture
def with_template(tokenizer):
    """The starter's tokenizer with another template, given back afterwards."""
    own = tokenizer.chat_template

    def change(template: str):
        tokenizer.chat_template = template
        return tokenizer

    yield change
    tokenizer.chat_template = own


def say(*contents: str, system: str = ""):
    roles = itertools.cycle(("user", "assistant"))
    turns = [{"role": role, "content": text} for role, text in zip(roles, contents)]
    return ([{"role": "system", "content": system}] if system else []) + turns


def parts(tokenizer, sample):
    """The text as runs of (learnt, text)."""
    runs = itertools.groupby(zip(sample["mask"].tolist(), sample["tokens"].tolist()), key=lambda pair: pair[0])
    return [(bool(learnt), tokenizer.decode([t for _, t in run])) for learnt, run in runs]


# --- tokens and masks ---------------------------------------------------------------------------------------------


def test_the_starters_batches_are_those_that_made_the_checked_in_weights(tokenizer):
    """Tokens and masks of its first three batches, as they were before files could be learnt from."""
    digest, sizes = hashlib.sha256(), []
    for rows in itertools.islice(StarterSource(load(["mode=sft"]), tokenizer).batches(0), 3):
        sizes.append(len(rows))
        for row in rows:
            assert row["tokens"].dtype == np.int32 and row["mask"].dtype == np.float32
            digest.update(row["tokens"].tobytes())
            digest.update(row["mask"].tobytes())
    assert sizes == [54, 52, 54]
    assert digest.hexdigest() == "e63169c2387c3d87ddef40025581bb9cc554dd91e3c3760a788c389abfc40a7c"


def test_every_assistant_turn_is_learnt_with_its_end_and_nothing_else(tokenizer):
    sample = encode(tokenizer, say("one?", "<think>a</think>1", "two?", "2 ", "bye", system="be brief"))
    assert parts(tokenizer, sample) == [
        (False, "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\n"),
        (True, "<think>a</think>1<|im_end|>"),
        (False, "\n<|im_start|>user\ntwo?<|im_end|>\n<|im_start|>assistant\n"),
        (True, "2 <|im_end|>"),
    ]


def test_the_published_template_begins_with_its_system_prompt_unless_there_is_one(with_template):
    tokenizer = with_template(template_path("am_thinking").read_text())
    (_, before), (_, answer) = parts(tokenizer, encode(tokenizer, say("q", "<think>t</think> <answer>a</answer>")))
    assert before.startswith("<|im_start|>system\nYou are a helpful assistant. To answer the user's question, ")
    assert before.endswith("<answer> answer here </answer>.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
                           "<|im_start|>assistant\n")
    assert answer == "<think>t</think> <answer>a</answer><|im_end|>"
    own = parts(tokenizer, encode(tokenizer, say("q", "a", system="S")))
    assert own[0][1] == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_without_an_end_of_turn_still_teaches_to_stop(with_template):
    tokenizer = with_template(BARE)
    assert parts(tokenizer, encode(tokenizer, say("q", "a", "r", "b"))) == [
        (False, "user: q\nassistant: "),
        (True, "a<|im_end|>"),
        (False, "\nuser: r\nassistant: "),
        (True, "b<|im_end|>"),
    ]


def test_a_template_that_forgets_is_refused_where_it_would_matter(with_template):
    tokenizer = with_template(FORGETFUL)
    _, answer = parts(tokenizer, encode(tokenizer, say("q", "<think>t</think>a")))
    assert answer == (True, "<think>t</think>a<|im_end|>")
    with pytest.raises(UserError, match="changes what it showed of an answer once turn 3 follows.*sft.template"):
        encode(tokenizer, say("q", "<think>t</think>a", "r", "b"))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<|"), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_what_is_learnt_is_what_the_assistant_said(tokenizer, turns):
    sample = encode(tokenizer, say(*itertools.chain.from_iterable(turns)))
    learnt = [text for mask, text in parts(tokenizer, sample) if mask]
    assert learnt == [tokenizer.decode(tokenizer(answer + "<|im_end|>")["input_ids"]) for _, answer in turns]
    assert sample["mask"][0] == 0


# --- files --------------------------------------------------------------------------------------------------------


def write(path, rows):
    """As .jsonl or .parquet (row groups of 3)."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(count, start=0):
    return [{"id": i, "messages": say(f"question {i}", f"answer {i}")} for i in range(start, start + count)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_are_found_by_number_across_files(tmp_path, ending):
    paths = [write(tmp_path / f"a.{ending}", rows_of(7)), write(tmp_path / f"b.{ending}", rows_of(600, 7))]
    dialogues = Dialogues(paths)
    assert len(dialogues) == 607 == sum(dialogues.block_sizes)
    for i in (606, 0, 6, 7, 8, 300, 5, 606):
        assert dialogues[i][1]["content"] == f"answer {i}"
    assert dialogues.where(7) == f"{paths[1]}, row 1"


def test_blank_lines_are_not_rows_but_count_as_lines(tmp_path):
    lines = "\n\n".join(json.dumps(row) for row in rows_of(LINES + 3))
    (tmp_path / "a.jsonl").write_text("\n" + lines + "\n\n")
    dialogues = Dialogues([str(tmp_path / "a.jsonl")])
    assert dialogues.block_sizes == [LINES, 3]
    assert dialogues[LINES + 2][0]["content"] == f"question {LINES + 2}"
    assert dialogues.where(LINES).endswith(f"a.jsonl, row {2 * LINES + 2}")


BROKEN = [
    ({"text": "x"}, "column messages is missing (columns found: text)"),
    ({"messages": None}, "column messages is missing"),
    ({"messages": []}, "column messages should hold a list"),
    ({"messages": "hello"}, "not 'hello'"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "roles system, user, assistant"),
    ({"messages": [{"role": "user", "content": 7}]}, "not {'role': 'user', 'content': 7}"),
    ({"messages": say("only a question")}, "an assistant turn after another one"),
    ({"messages": [{"role": "assistant", "content": "first"}]}, "an assistant turn after another one"),
    ({"messages": say("q", "  ")}, "no empty one"),
    ([1], "column messages is missing (columns found: list)"),
]


@pytest.mark.parametrize("row,message", BROKEN)
def test_a_broken_row_is_told_with_file_row_and_column(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", [*rows_of(2), row])
    with pytest.raises(UserError) as told:
        Dialogues([path])[2]
    assert str(told.value).startswith(f"{path}, row 3: column messages") and message in str(told.value)


def test_a_survey_refuses_or_counts_broken_rows_and_keeps_its_result(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "a.jsonl"
    write(path, [*rows_of(2), {"messages": []}, *rows_of(1, 3)])
    path.write_text(path.read_text() + "{not json\n")
    dialogues = Dialogues([str(path)])
    with pytest.raises(UserError, match=r"row 3: column messages .*2 broken rows; data.on_bad_row=skip"):
        survey(dialogues, tokenizer, "refuse", tmp_path / "cache")
    monkeypatch.setattr("rl.dialogues._count", lambda *_: pytest.fail("counted twice"))
    found = survey(dialogues, tokenizer, "skip", tmp_path / "cache")
    expected = [len(encode(tokenizer, say(f"question {i}", f"answer {i}"))["tokens"]) for i in (0, 1, 3)]
    assert found.lengths.tolist() == [*expected[:2], 0, expected[2], 0] and found.shortest == min(expected)
    assert [text.partition(":")[0] for text in found.rejects] == [f"{path}, row 3", f"{path}, row 5"]
    path.write_text(path.read_text() + "\n")  # another file is another survey
    with pytest.raises(pytest.fail.Exception, match="counted twice"):
        survey(Dialogues([str(path)]), tokenizer, "skip", tmp_path / "cache")


@pytest.mark.process
def test_processes_count_what_one_counts(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", rows_of(6001))
    one = survey(Dialogues([path]), tokenizer, "refuse", tmp_path / "one")
    assert len(one.lengths) == 6001 and one.lengths.min() > 0
    for i in (0, 3000, 6000):
        assert one.lengths[i] == len(encode(tokenizer, one.dialogues[i])["tokens"])


@pytest.mark.parametrize("name,message", [
    ("none.jsonl", "no such file"), ("a.csv", "convert it"), ("bad.parquet", "not a readable parquet file"),
    ("other.parquet", "column messages is missing (columns found: id, text)"), ("empty.jsonl", "no rows"),
])
def test_files_that_cannot_be_read_are_named(tmp_path, tokenizer, name, message):
    (tmp_path / "a.csv").write_text("a,b\n")
    (tmp_path / "bad.parquet").write_text("not parquet")
    (tmp_path / "empty.jsonl").write_text("\n")
    write(tmp_path / "other.parquet", [{"id": 1, "text": "x"}])
    with pytest.raises(UserError) as told:
        survey(Dialogues([str(tmp_path / name)]), tokenizer, "skip", tmp_path / "cache")
    assert name in str(told.value) and message in str(told.value)


def test_a_file_of_problems_is_told_from_one_of_dialogues(tmp_path):
    problem = {"data_source": "math__x", "prompt": say("q"), "reward_model": {"ground_truth": "1"}}
    for ending in ("jsonl", "parquet"):
        assert Dialogues.holds(write(tmp_path / f"dialogues.{ending}", rows_of(2)))
        assert not Dialogues.holds(write(tmp_path / f"problems.{ending}", [problem]))


def test_a_prepared_folder_stands_for_the_files_of_a_split(tmp_path):
    names = ("train-00001-of-00002.parquet", "train-00000-of-00002.parquet", "heldout.parquet", "card.json")
    for name in names:
        (tmp_path / name).touch()
    train = [str(tmp_path / name) for name in sorted(names[:2])]
    assert Dialogues.files([str(tmp_path), "own.jsonl"], "train") == [*train, "own.jsonl"]
    with pytest.raises(UserError, match=r"data.test=.* holds no test\*.parquet"):
        Dialogues.files([str(tmp_path)], "test")
