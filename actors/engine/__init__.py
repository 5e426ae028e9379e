"""What every engine offers to the actors: one protocol, several engines (vLLM here; others stand beside it)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actors.messages import Completion


@dataclass(frozen=True)
class Sampling:
    """How to sample. `top_k` -1 means all tokens; `max_tokens` bounds each completion, and with `ignore_eos` is its
    length (for benchmarks)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int = 128
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()  # texts that end a completion, itself included


@dataclass(frozen=True)
class Request:
    """One prompt (token ids, int32 [P]) and how many completions of it are wanted.

    `max_tokens` bounds them below the sampling's own limit (0: that limit alone).
    """

    id: str
    prompt_ids: np.ndarray
    n: int = 1
    max_tokens: int = 0


class Engine(Protocol):
    """A text generator whose weights can be replaced in place. `version` counts the weights that it holds."""

    version: int

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, seed: int | None = None
    ) -> AsyncIterator[tuple[str, tuple[Completion, ...]]]:
        """Yield (request id, its n completions) as each request finishes, in the order of finishing.

        The requests enter the engine together and `seed` seeds the engine as they do: on an idle engine the same
        call with the same weights gives the same tokens and logprobs, bit for bit. Closing the iterator aborts what
        is still running. Raises ValueError where a prompt does not fit into the context.
        """

    async def load(self, weights: Mapping[str, Any], version: int) -> float:
        """Replace all weights between two engine steps; drop caches of the old ones. Returns seconds."""

    def stats(self) -> dict[str, Any]:
        """Counters for status pages: requests running, tokens generated, version."""

    def close(self) -> None:
        """Stop the engine; requests that still run end with an error."""
