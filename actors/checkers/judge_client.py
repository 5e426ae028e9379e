"""The judge's model behind an OpenAI-compatible URL, asked synchronously from a checker process.

No retries here: a check that ends in an error is tried again by the verifier, on another worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from actors.checkers.judge import JudgeFailed

KEY_VARIABLE = "RAYTHINK_JUDGE_API_KEY"  # where the verifier finds the key for its workers
MAX_TOKENS = 2048


class JudgeClient:
    """`model` at `url` (with its `/v1`), which may need a `key`. The constructor imports the SDK: about a second."""

    def __init__(self, url: str, model: str, key: str = "") -> None:
        import openai

        self.model, self._sdk = model, openai
        self._client = openai.OpenAI(api_key=key or "none", base_url=url, max_retries=0)

    def within(self, budget_s: float, clock: Callable[[], float] = time.monotonic) -> Callable[[str], str]:
        """What asks the judge: a prompt in, its reply out. All questions together get `budget_s` seconds from now.

        Raises JudgeFailed once they are spent, and for whatever keeps the judge from answering in full.
        """
        deadline = clock() + budget_s

        def ask(prompt: str) -> str:
            left = deadline - clock()
            if left <= 0:
                raise JudgeFailed(f"no decision within {budget_s:g} s")
            return self._reply(prompt, left)

        return ask

    def _reply(self, prompt: str, timeout_s: float) -> str:
        try:
            reply = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=0.0,
                max_tokens=MAX_TOKENS,
                timeout=timeout_s,
            )
            choice = reply.choices[0]
            text, reason = str(choice.message.content or ""), choice.finish_reason
        except self._sdk.AuthenticationError as refusal:
            raise JudgeFailed(f"it refused our key: set {KEY_VARIABLE} to a valid one") from refusal
        except (self._sdk.APIError, UnicodeEncodeError) as failure:
            raise JudgeFailed(f"{type(failure).__name__}: {failure}"[:300]) from failure
        except (AttributeError, IndexError, TypeError, ValueError) as failure:
            raise JudgeFailed(f"its reply is none of the chat protocol: {failure}"[:300]) from failure
        if reason != "stop":
            raise JudgeFailed(f"its reply ended with {reason!r}")
        return text
