"""Events and chunks of an engine as OpenAI's chunks; the chunks as one reply; reasoning split off on the way."""

from __future__ import annotations

import json

import pytest
from fake_backend import CHUNKS, ONE, PLAN, THREE, selected
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from actors.engine.chat import Chunk, EngineError, EngineGone, TokenLogprob, Usage
from actors.selection import Opinion
from deployments.events import CandidateDelta, CandidateRestarted, Clustered, Judged, split_reasoning
from deployments.folding import fold
from deployments.splitter import ReplySplitter
from deployments.streaming import (
    ChatChunks,
    Envelope,
    SampleChunks,
    encode_event,
    encode_json,
    event_json,
    logprobs_json,
)

ENVELOPE = Envelope("chatcmpl-1", 1700000000, "raythink")


def chat(events, include_usage=True, **how):
    encoder = ChatChunks(ENVELOPE, **({"streamed": True} | how))
    chunks = [*encoder.start(), *(chunk for event in events for chunk in encoder.feed(event))]
    return [*chunks, *encoder.end(include_usage)]


def samples(pieces, choices=1, kind="chat.completion.chunk", thinking=False):
    encoder = SampleChunks(Envelope("x", 1, "raythink", kind), choices, thinking)
    chunks = [*encoder.start(), *(chunk for index, piece in pieces for chunk in encoder.feed(index, piece))]
    return [*chunks, *encoder.end(True)]


def text(chunks, name="content"):
    return "".join(part["delta"].get(name, "") for chunk in chunks for part in chunk["choices"])


# --- the scaffold's events ------------------------------------------------------------------------------------------


def test_a_candidate_that_begins_anew_is_told_and_what_it_had_said_is_forgotten():
    events = [CandidateDelta(0, "<think>half", 3), CandidateRestarted(0, "gone", 3), *ONE]
    chunks = chat(events, live=True)
    assert text(chunks) == "It is 42"
    assert text(chunks, "reasoning_content").startswith("half\nCandidate 1 begins anew: gone.\n\nSix")
    assert chat([CandidateRestarted(0, "gone", 3), *ONE], streamed=False, explain={})[1]["raythink"] == {
        "type": "restarted", "index": 0, "reason": "gone", "tokens": 3}  # fmt: skip


def test_an_answer_that_was_passed_on_already_cannot_begin_anew():
    with pytest.raises(EngineGone, match="gone"):
        chat([CandidateDelta(0, "<think>x</think>It is", 3), CandidateRestarted(0, "gone", 3), *ONE], live=True)


def test_a_stream_tells_the_plan_and_the_progress_and_then_the_answer():
    chunks = chat(THREE)
    assert text(chunks) == "42"
    reasoning = text(chunks, "reasoning_content")
    assert reasoning.startswith("Plan:\nMultiply.\nCheck.\nCandidate 1 is done (6 tokens, 0.5 s).\n")
    assert "Candidate 3 failed: EngineError: out of memory.\n" in reasoning
    assert reasoning.endswith("Answers so far: 42, 42.0.\n\n6*7")
    names = ["reasoning" if "reasoning_content" in c["choices"][0]["delta"] else "content" for c in chunks[1:-2]]
    assert names == sorted(names, reverse=True)  # all reasoning comes before the answer
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] == 55
    assert not any("raythink" in chunk for chunk in chunks)


def test_a_single_candidate_is_passed_on_as_it_writes():
    chunks = chat(ONE, live=True)
    pieces = [part["delta"] for chunk in chunks for part in chunk["choices"]]
    assert [p["reasoning_content"] for p in pieces if "reasoning_content" in p] == ["Six sev", "ens."]
    assert [p["content"] for p in pieces if p.get("content")] == ["It is", " 42"]


def test_what_was_passed_on_live_is_completed_but_never_said_twice():
    events = [CandidateDelta(0, "It is", 2), selected(answer="It is 42", reasoning="")]
    assert text(chat(events, live=True)) == "It is 42"
    events = [CandidateDelta(0, "So: 41", 2), selected(answer="It is 42", reasoning="")]
    assert text(chat(events, live=True)) == "So: 41"


def test_a_plan_and_live_reasoning_stand_apart():
    reasoning = text(chat([PLAN, *ONE], live=True), "reasoning_content")
    assert reasoning == "Plan:\nMultiply.\nCheck.\n\nSix sevens."


def test_every_chunk_is_openais():
    for chunks in (chat(THREE), chat(ONE, live=True), chat(THREE, explain={"n": 3})):
        for chunk in chunks:
            ChatCompletionChunk.model_validate(chunk, strict=True)
            assert {key: chunk[key] for key in ("id", "created", "model")} == {
                "id": "chatcmpl-1",
                "created": 1700000000,
                "model": "raythink",
            }


def test_without_a_wish_for_it_no_chunk_tells_the_usage():
    assert not any("usage" in chunk for chunk in chat(THREE, include_usage=False))


def test_explained_each_event_goes_with_a_chunk():
    told = [chunk["raythink"] for chunk in chat(THREE, explain={"n": 3, "effort": "medium"}) if "raythink" in chunk]
    assert told[0] == {"type": "start", "n": 3, "effort": "medium"}
    assert [event["type"] for event in told[1:]] == [
        "plan",
        "delta",
        "delta",
        "delta",
        "candidate",
        "candidate",
        "delta",
        "candidate",
        "votes",
        "selected",
    ]
    assert told[1] == {"type": "plan", "text": "Multiply.\nCheck.", "steps": ["Multiply.", "Check."], "reason": ""}
    assert told[-2]["clusters"] == [0, 0] and told[-1]["why"] == "2 of 3 agree"
    assert told[6]["state"] == "failed" and told[5]["state"] == "finished"


def test_a_whole_reply_is_the_stream_put_together():
    reply = fold(chat(THREE, streamed=False, explain={"n": 3, "effort": "medium"}))
    ChatCompletion.model_validate(reply, strict=True)
    message = reply["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("42", "6*7")
    assert reply["usage"] == {"prompt_tokens": 30, "completion_tokens": 25, "total_tokens": 55}
    assert reply["system_fingerprint"] == "v3"
    told = reply["raythink"]
    assert told["plan"]["steps"] == ["Multiply.", "Check."] and told["effort"] == "medium"
    assert (told["winner"], told["why"], told["version"]) == (0, "2 of 3 agree", 3)
    assert [(c["index"], c["state"], c["final"], c["cluster"]) for c in told["candidates"]] == [
        (0, "finished", "42", 0),
        (1, "finished", "42.0", 0),
        (2, "failed", None, -1),
    ]
    assert told["candidates"][1]["answer"] == "42.0" and told["votes"]["answers"] == ["42", "42.0"]


def test_a_judgement_is_told():
    event = Judged((Opinion(0, 1, 1), Opinion(1, 0, None)), ((0, 0.0), (1, 1.0)), Usage(5, 5))
    assert event_json(event) == {
        "type": "judged",
        "points": [[0, 0.0], [1, 1.0]],
        "opinions": [{"first": 0, "second": 1, "preferred": 1}, {"first": 1, "second": 0, "preferred": None}],
    }
    assert "judged in pairs" in text(chat([event, selected()]), "reasoning_content")


def test_long_answers_are_not_listed_as_progress():
    event = Clustered((0,), ("def f(x):\n" + "    x\n" * 50,), (0,), (True,), ("",))
    assert text(chat([event, selected(reasoning="r")]), "reasoning_content") == "r"


def test_an_answer_that_breaks_off_is_not_a_reply():
    with pytest.raises(EngineError, match="broke off"):
        chat(THREE[:-1])


def test_usage_counts_along_for_a_reply_that_breaks_off():
    encoder = ChatChunks(ENVELOPE, streamed=True)
    for event in THREE[:4]:
        list(encoder.feed(event))
    assert encoder.usage == Usage(10, 5 + 12)
    list(encoder.feed(THREE[-1]))
    assert encoder.usage == Usage(30, 25)


def test_logprobs_of_the_chosen_candidate():
    event = selected(logprobs=(TokenLogprob("42", -0.5, (("42", -0.5),)),))
    reply = fold(chat([event], streamed=False, logprobs=True))
    ChatCompletion.model_validate(reply, strict=True)
    top = {"token": "42", "logprob": -0.5, "bytes": [52, 50]}
    assert reply["choices"][0]["logprobs"]["content"] == [top | {"top_logprobs": [top]}]
    assert fold(chat([event], streamed=False))["choices"][0]["logprobs"] is None


# --- direct samples -------------------------------------------------------------------------------------------------


def test_choices_keep_apart_and_their_usage_adds_up():
    pieces = [(0, CHUNKS[0]), (1, CHUNKS[0]), (1, CHUNKS[1]), (0, CHUNKS[1]), (1, CHUNKS[2]), (0, CHUNKS[2])]
    reply = fold(samples(pieces, 2))
    ChatCompletion.model_validate(reply, strict=True)
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["It is 42", "It is 42"]
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["stop", "stop"]
    assert reply["usage"] == {"prompt_tokens": 14, "completion_tokens": 6, "total_tokens": 20}
    logprobs = reply["choices"][1]["logprobs"]["content"]
    assert [(p["token"], p["logprob"]) for p in logprobs] == [("It", -0.5), (" is", -0.25), (" 42", -0.125)]
    assert logprobs[0]["top_logprobs"][1]["logprob"] == -9999.0


def test_a_text_completion_is_raw_text_with_offsets():
    chunks = samples([(0, CHUNKS[0]), (0, Chunk(" <think>", 1)), (0, CHUNKS[2])], kind="text_completion")
    reply = fold(chunks)
    Completion.model_validate(reply, strict=True)
    assert reply["object"] == "text_completion" and reply["choices"][0]["text"] == "It is <think>"
    assert reply["choices"][0]["logprobs"]["text_offset"] == [0, 2]
    assert reply["choices"][0]["logprobs"]["tokens"] == ["It", " is"]


def test_logprobs_are_lost_in_no_chunk():
    """Not in one whose text is held back, nor in one without text."""
    pieces = [
        (0, Chunk("<thi", 1, (TokenLogprob("<thi", -1.0),))),
        (0, Chunk("", 1, (TokenLogprob("", -2.0),))),
        (0, Chunk("nk>a</think>b", 3, (TokenLogprob("...", -3.0),), "stop", Usage(1, 5))),
    ]
    choice = fold(samples(pieces))["choices"][0]
    assert [token["logprob"] for token in choice["logprobs"]["content"]] == [-1.0, -2.0, -3.0]
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("a", "b")


def test_a_choice_that_breaks_off_is_not_a_reply():
    with pytest.raises(EngineError, match="broke off"):
        samples([(0, CHUNKS[0]), (0, CHUNKS[2]), (1, CHUNKS[0])], 2)


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_any_text_becomes_valid_json_on_one_line():
    payload = {"text": 'a\nb\r\u2028"\ud800\x00é'}
    data = encode_event(payload)
    assert data.startswith(b"data: ") and data.endswith(b"\n\n") and data.count(b"\n") == 2
    assert json.loads(data[6:])["text"] == 'a\nb\r\u2028"?\x00é'


def test_numbers_that_json_cannot_say_are_not_sent():
    with pytest.raises(ValueError):
        encode_json({"x": float("nan")})
    encode_json(logprobs_json([TokenLogprob("a", float("-inf"), (("b", float("nan")),))]))
    worst = THREE[4].__class__(0, "x", "stop", 1, float("inf"), float("nan"))
    assert (event_json(worst)["seconds"], event_json(worst)["confidence"]) == (None, None)


# --- the splitter ---------------------------------------------------------------------------------------------------


def split(pieces, thinking=False):
    splitter, said = ReplySplitter(thinking), {"reasoning": "", "content": ""}
    for channel, said_now in [*(found for piece in pieces for found in splitter.feed(piece)), *splitter.close()]:
        assert said_now
        said[channel] += said_now
    return said["reasoning"], said["content"]


@pytest.mark.parametrize(
    ("whole", "expected"),
    [
        ("<think>a</think>b", ("a", "b")),
        ("just text", ("", "just text")),
        ("<think> a \n</think>\n\n b  c \n", ("a", "b  c")),
        ("<think>a</think><answer>b</answer>", ("a", "b")),
        ("<think>never ends", ("never ends", "")),
        ("1 < 2 <b> </ </thin", ("", "1 < 2 <b> </ </thin")),
        ("<think><think>a</think>b", ("a", "b")),
        ("", ("", "")),
    ],
)
def test_tags_are_found_however_the_text_is_cut(whole, expected):
    assert split([whole]) == split(list(whole)) == expected == split_reasoning(whole)


def test_a_reply_may_begin_as_reasoning():
    assert split(["a</th", "ink>b"], thinking=True) == ("a", "b") == split_reasoning("a</think>b")
    assert split(["<think>a</think>b"], thinking=True) == ("a", "b")


WORDS = st.text("<>/think answer\n", max_size=30).filter(lambda t: "think>" not in t and "answer>" not in t)


@settings(deadline=None)
@given(WORDS, WORDS, st.booleans(), st.lists(st.integers(0, 120), max_size=8))
def test_the_splitter_agrees_with_split_reasoning_on_any_cut(reasoning, answer, tagged, cuts):
    whole = f"<think>{reasoning}</think>" + (f"<answer>{answer}</answer>" if tagged else answer)
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[a:b] for a, b in zip(places, places[1:])]
    assert split(pieces) == split_reasoning(whole)


PARTS = ["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\n", "<", "th"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=12))
def test_the_splitter_loses_no_word_wherever_tags_stand(parts):
    assert split(parts) == split(["".join(parts)])
    assert "".join(split(parts)).count("a") >= parts.count("a")
