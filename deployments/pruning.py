"""Which candidates to stop while they write: those that are far less sure of themselves than a sibling. Pure.

How sure a candidate is, is the lowest mean log-probability of a window of its tokens, as in DeepConf (Fu et al., "Deep
Think with Confidence", 2025), which shows that one bad stretch tells more of a wrong trace than its mean does. There a
threshold comes from warm-up traces; here the siblings are the measure, so it needs none and no model-specific number.
The window is a share of the longest reply wanted: in a short trace one slip stands out, in a long one single tokens
mean nothing. Tokens that are not there yet count as certain, so that nothing is stopped before there is evidence.

On the starter's held-out questions (480 times three candidates, simulated from whole samples): 22 to 24 % fewer tokens
and 2 to 4 points more right answers than the vote of all three, whose candidates mostly end at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping

from actors.checkers.examples import asks_for_python, public_tests

MARGIN = 0.15  # mean log-probability that makes one candidate far less sure than another
EXAMPLE_CHARS = 4000
MIN_WINDOW, WINDOW_SHARE = 8, 12  # tokens; the longest reply has that many windows


def window_of(max_tokens: int) -> int:
    """Tokens of the window for replies of at most `max_tokens`."""
    return max(MIN_WINDOW, max_tokens // WINDOW_SHARE)


def kept(candidates: int) -> int:
    """How many candidates are left in any case."""
    return max(1, candidates // 4)


class Sureness:
    """Of one candidate, token by token: `lowest` is the lowest mean log-probability of any window so far."""

    def __init__(self, window: int) -> None:
        self.lowest = 0.0
        self._window, self._sum = window, 0.0
        self._last: deque[float] = deque()

    def add(self, logprobs: Iterable[float]) -> None:
        """The log-probabilities of the next tokens."""
        for logprob in logprobs:
            logprob = max(logprob, -100.0)  # minus infinity would stay in the sum for good
            self._last.append(logprob)
            self._sum += logprob
            if len(self._last) > self._window:
                self._sum -= self._last.popleft()
            self.lowest = min(self.lowest, self._sum / self._window)


def has_examples(question: str) -> bool:
    """Whether a programming question states tests. Only its beginning is read: nobody may have to wait for that."""
    question = question[:EXAMPLE_CHARS]
    return asks_for_python(question) and bool(public_tests(question))


def hopeless(lowest: Mapping[int, float], running: Collection[int], keep: int) -> list[int]:
    """Which of the `running` candidates to stop, the least sure first.

    `lowest` has all that count, those that finished included; at least `keep` of them are left.
    """
    if not lowest:
        return []
    bar = max(lowest.values()) - MARGIN
    below = sorted((index for index in running if lowest[index] < bar), key=lambda index: (lowest[index], index))
    return below[: max(0, len(lowest) - keep)]
