"""Which policy version sampled which tokens of a reply, where weights are replaced while it is being written. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

# vLLM's own name of a completion: its number among those of one request, our name of the request, and a random tail
_NAME = re.compile(r"(?:(?P<number>\d+)_)?(?P<request>\d+/.*)-[0-9a-f]{8}", re.DOTALL)

Mark = tuple[int, int]
"""(tokens there were, policy version that goes on from them)"""


def whose(name: str) -> tuple[str, int] | None:
    """(request, completion's number) by vLLM's name of a completion; None for one that is not of `VllmEngine`'s."""
    found = _NAME.fullmatch(name)
    return (found["request"], int(found["number"] or 0)) if found else None


def spans(start: int, marks: Sequence[Mark], total: int) -> tuple[tuple[int, int], ...]:
    """(policy version, tokens) of a completion of `total` tokens begun at version `start`, without empty spans.

    Marks count the tokens that there were: one that was stopped in the meantime has no more than `total`.
    """
    found, version, done = [], start, 0
    for tokens, following in (*marks, (total, start)):
        if (count := min(tokens, total) - done) > 0:
            found.append((version, count))
            done += count
        version = following
    return tuple(found)
