"""Speculative decoding: what `engine.speculative` says, as vLLM's `speculative_config`.

A cheap drafter proposes the next tokens, the model checks them all in one pass and keeps those that it would have
sampled itself, so that the output's distribution does not change (Leviathan et al. 2023; Chen et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conf.errors import UserError

# drafted tokens a pass; n-gram drafts cost nothing, a model's cost a pass of that model each
TOKENS = {"ngram": 5, "suffix": 8, "mtp": 1, "draft": 3, "eagle": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "ngram": {"prompt_lookup_min": 2, "prompt_lookup_max": 4},
    # drafts of up to twice the length of what matched: reasoning of one kind goes on alike
    "suffix": {"suffix_decoding_max_spec_factor": 2.0},
}
WITH_MODEL = {"draft": "draft_model", "eagle": "eagle"}


def speculative_config(text: str) -> dict[str, Any] | None:
    """vLLM's arguments for "", ngram, suffix, mtp, draft:MODEL or eagle:MODEL. Raises UserError."""
    method, _, model = text.partition(":")
    if not text:
        return None
    if method not in TOKENS:
        raise UserError(f"engine.speculative={text} is none of {', '.join(TOKENS)}: use engine.speculative=ngram")
    if (method in WITH_MODEL) != bool(model):
        example = f"{method}:MODEL" if method in WITH_MODEL else method
        raise UserError(f"engine.speculative={text} is not complete: write engine.speculative={example}")
    config: dict[str, Any] = {"method": WITH_MODEL.get(method, method), "num_speculative_tokens": TOKENS[method]}
    if model:
        config["model"] = model
    config |= OPTIONS.get(method, {})
    return config


def acceptance(counters: Mapping[str, float]) -> dict[str, float]:
    """From vLLM's counters (`num_drafts`, `num_draft_tokens`, `num_accepted_tokens`): the share of drafted tokens that
    was kept, and the mean number of tokens a pass yields, the one that the model adds itself included."""
    drafts, drafted = counters.get("num_drafts", 0), counters.get("num_draft_tokens", 0)
    accepted = counters.get("num_accepted_tokens", 0)
    return {
        "acceptance_rate": accepted / drafted if drafted else 0.0,
        "acceptance_length": 1 + accepted / drafts if drafts else 1.0,
    }
