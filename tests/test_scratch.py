"""A policy from nothing, and the examples it is tuned on: deterministic, and lossless from text to tokens and back."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from conf.load import load
from conf.schema import InitConfig
from rl.dialogues import encode
from rl.problems.starter.corpus import sft_examples
from rl.scratch import SPECIAL, TAGS, make_policy, train_tokenizer
from rl.sft_data import SEED, StarterSource

# Not an engine, but transformers and torch take longer to import than all pure tests take to run.
pytestmark = pytest.mark.engine

VOCABULARY = 400
TINY = InitConfig(hidden_size=64, layers=1, vocab_size=VOCABULARY)


def corpus() -> list[str]:
    return [m["content"] for example in islice(sft_examples(0), 120) for m in example.messages]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(corpus(), VOCABULARY)


# --- the tokenizer ------------------------------------------------------------------------------------------------


def test_the_same_corpus_gives_the_same_tokenizer(tokenizer):
    again = train_tokenizer(corpus(), VOCABULARY)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_vocabulary_has_the_size_asked_for(tokenizer):
    assert len(tokenizer) == VOCABULARY
    assert sorted(tokenizer.get_vocab().values()) == list(range(VOCABULARY))
    assert set(SPECIAL + TAGS) <= set(tokenizer.get_vocab())
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


@pytest.mark.parametrize("text", ["7", "42", "1234567890", "3.14159", "x=10;y=2000", "a1b22c333"])
def test_each_digit_is_a_token_of_its_own(tokenizer, text):
    tokens = [tokenizer.decode([t]) for t in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert "".join(tokens) == text
    assert [t for t in tokens if any(c.isdigit() for c in t)] == [c for c in text if c.isdigit()]


@pytest.mark.parametrize("text", [
    "", " ", "  two  spaces  ", "\n\n\ttabs\r\n", "ünïcödé — “quotes” ‘…’", "日本語 العربية עברית", "🙂👩‍👩‍👧‍👦",
    "x ≤ y ⇒ ∑ᵢ xᵢ²", "\\frac{1}{2} $a_1$ {}[]()<>|", "1 , 2 .3 !", "don't  'stop' n't", "\x00\x07\x7f",
    "e\u0301 vs \u00e9", "<answer>", "< answer >", "<|im_start|", "No newline at end ",
])
def test_odd_text_survives(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_tags_are_single_tokens_that_servers_keep_and_turns_are_not_kept(tokenizer):
    text = "<think>1+1</think><answer>2</answer><plan>add</plan>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(ids.count(tokenizer.convert_tokens_to_ids(tag)) == 1 for tag in TAGS)
    ids.append(tokenizer.eos_token_id)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode(ids, skip_special_tokens=False) == text + "<|im_end|>"


def test_the_chat_template_renders_turns(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 1+1?\n"}]
    turns = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n 1+1?\n<|im_end|>\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == turns
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == turns + "<|im_start|>assistant\n"
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == prompt
    assert [ids.count(tokenizer.convert_tokens_to_ids(t)) for t in SPECIAL] == [0, 3, 2]


# --- examples -----------------------------------------------------------------------------------------------------


def test_an_example_is_the_engines_prompt_and_the_learnt_answer(tokenizer):
    messages = ({"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "<answer>2</answer>"})
    row = encode(tokenizer, messages)
    learnt = row["mask"] > 0
    assert tokenizer.decode(row["tokens"][~learnt]) == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(row["tokens"][learnt]) == "<answer>2</answer><|im_end|>"
    assert (np.diff(row["mask"]) >= 0).all() and len(row["mask"]) == len(row["tokens"])
    assert row["tokens"].dtype == np.int32 and row["mask"].dtype == np.float32


def test_examples_are_encoded_as_their_whole_text_would_be(tokenizer):
    """The prompt ends where tokens end: what is learnt after it is what would follow it in one piece."""
    for example in islice(sft_examples(5), 30):
        row = encode(tokenizer, example.messages)
        text = tokenizer.apply_chat_template(list(example.messages), tokenize=False)
        whole = tokenizer(text.removesuffix("\n"), add_special_tokens=False)["input_ids"]
        assert row["tokens"].tolist() == whole


def test_batches_are_whole_examples_of_at_least_the_tokens_asked_for(tokenizer):
    cfg = load(["mode=sft", "sft.batch_tokens=500"])
    first, second = (list(islice(StarterSource(cfg, tokenizer).batches(0), 3)) for _ in range(2))
    assert [[r["tokens"].tolist() for r in batch] for batch in first] == [
        [r["tokens"].tolist() for r in batch] for batch in second]
    for batch in first:
        lengths = [len(row["tokens"]) for row in batch]
        assert sum(lengths) >= 500 > sum(lengths[:-1])
    flat = [row["tokens"].tolist() for batch in first for row in batch]
    assert flat == [encode(tokenizer, x.messages)["tokens"].tolist() for x in islice(sft_examples(SEED), len(flat))]


# --- the model ----------------------------------------------------------------------------------------------------


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    import torch

    state = torch.random.get_rng_state()
    one, same, other = (
        digests(make_policy(tmp_path / name, TINY, corpus(), seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert one == same
    assert {name for name in one if one[name] != other[name]} == {"model.safetensors"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(one)
    assert torch.equal(torch.random.get_rng_state(), state)  # whoever calls it keeps his random numbers


def test_a_made_policy_loads_as_any_model_does(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from conf.checks import check_model_dir

    folder = make_policy(tmp_path / "policy", TINY, corpus(), 1)
    check_model_dir(str(folder))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.eos_token_id == tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    ids = tokenizer("12<answer>", return_tensors="pt")["input_ids"]
    assert model(ids).logits.shape == (1, ids.shape[1], VOCABULARY) and ids.shape[1] == 3
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    assert prompt == "<|im_start|>user\n?<|im_end|>\n"
