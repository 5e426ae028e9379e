"""Which answers the report shows: the same problem before and after training, and how all of them fared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.messages import DOMAINS

PER_DOMAIN = 2
MAX_PROMPT, MAX_ANSWER = 4_000, 8_000
STATUSES = ("correct", "incorrect", "error")


@dataclass(frozen=True)
class Answer:
    """One completion as shown: `thinking` (may be "") and the `text` after it; status is correct|incorrect|error."""

    status: str
    reason: str
    thinking: str
    text: str
    facts: str


@dataclass(frozen=True)
class Pair:
    """A problem with its answer before and after; one of the two may be missing. `outcome` is a key of OUTCOMES."""

    domain: str
    prompt: str
    before: Answer | None
    after: Answer | None
    outcome: str


OUTCOMES = {
    ("incorrect", "correct"): "wrong → right",
    ("correct", "correct"): "right → right",
    ("correct", "incorrect"): "right → wrong",
    ("incorrect", "incorrect"): "wrong → wrong",
}


def choose(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> tuple[list[Pair], dict[str, int]]:
    """The pairs to show, and how many problems had each outcome.

    A problem with several completions is judged by its first in each file. Shown are up to two a domain, those that
    became right first, then those right both times; and last, one that became wrong and one that stayed wrong.
    """
    pairs = _pair_up(before, after)
    counts = Counter(pair.outcome for pair in pairs)
    order = {"wrong → right": 0, "right → right": 1, "": 2}
    shown: list[Pair] = []
    for domain in sorted({pair.domain for pair in pairs}, key=_domain_rank):
        mine = [pair for pair in pairs if pair.domain == domain and pair.outcome in order]
        shown += sorted(mine, key=lambda pair: order[pair.outcome])[:PER_DOMAIN]
    for outcome in ("right → wrong", "wrong → wrong"):
        shown += [pair for pair in pairs if pair.outcome == outcome][:1]
    return shown, {outcome: counts[outcome] for outcome in OUTCOMES.values() if counts[outcome]}


def clip(text: str, limit: int) -> str:
    """`text`, its middle replaced by a remark where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n\n[… {len(text) - 2 * half:,} characters left out …]\n\n{text[-half:]}"


def _pair_up(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[Pair]:
    first = [{row["problem_id"]: row for row in reversed(rows)} for rows in (before, after)]
    ids = list(dict.fromkeys(row["problem_id"] for row in (*before, *after)))
    if before and after:
        ids = [i for i in ids if i in first[0] and i in first[1]]
    pairs = []
    for problem_id in ids:
        was, now = (rows.get(problem_id) for rows in first)
        row = was or now or {}
        pairs.append(
            Pair(
                domain=str(row["domain"] or "?"),
                prompt=clip(str(row["prompt"] or ""), MAX_PROMPT),
                before=_answer(was) if was else None,
                after=_answer(now) if now else None,
                outcome=OUTCOMES.get((was["status"], now["status"]), "") if was and now else "",
            )
        )
    return pairs


def _answer(row: Mapping[str, Any]) -> Answer:
    completion = str(row["completion"] or "")
    # Templates may open the thinking within the prompt: only its end is sure to be in the completion.
    thinking, end, text = completion.rpartition("</think>")
    facts = []
    if row["tokens"] is not None:
        facts.append(f"{row['tokens']} tokens")
    if row["finish_reason"] == "length":
        facts.append("cut at the limit")
    if row["policy_version"] is not None:
        facts.append(f"policy version {row['policy_version']}")
    status = row["status"] if row["status"] in STATUSES else "error"
    return Answer(
        status=status,
        reason=clip(str(row["reason"] or ""), 400),
        thinking=clip(thinking + end, MAX_ANSWER).strip(),
        text=clip(text, MAX_ANSWER).strip(),
        facts=" · ".join(facts),
    )


def _domain_rank(domain: str) -> tuple[int, str]:
    return (DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS), domain)
