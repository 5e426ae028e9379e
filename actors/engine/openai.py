"""Any OpenAI-compatible server as a ChatEngine: OpenAI itself, vLLM, SGLang, llama.cpp, our own gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from actors.engine.remote import CONNECT_TIMEOUT_S, RemoteEngine

NO_KEY = "none"  # the SDK insists on a key, many servers do not


class OpenAIEngine(RemoteEngine):
    """`model` at `base_url` (with its `/v1`).

    The key is `api_key`, or else what the environment variable `key_variable` holds; without either the server is
    asked without a key of ours. `extra` goes into the body of every call (as vLLM's `chat_template_kwargs`); further
    keywords are RemoteEngine's. The constructor imports the SDK, which takes about a second.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        extra: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        import openai

        client = openai.AsyncOpenAI(
            api_key=api_key or os.environ.get(key_variable) or NO_KEY,
            base_url=base_url,
            timeout=openai.Timeout(None, connect=CONNECT_TIMEOUT_S),
            max_retries=0,
        )
        super().__init__(model, client, openai, key_variable, extra=dict(extra or {}), **options)
