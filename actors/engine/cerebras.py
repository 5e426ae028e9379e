"""Cerebras Inference as a ChatEngine, through its own SDK. Its `time_info` comes along as `Chunk.timing`.

The API is OpenAI's with thinking in `reasoning`, `max_completion_tokens` for the length, and errors told inside a
stream that began with status 200.
"""

from __future__ import annotations

import os
from typing import Any

from actors.engine.remote import CONNECT_TIMEOUT_S, RemoteEngine
from conf.errors import UserError

KEY_VARIABLE = "CEREBRAS_API_KEY"


class CerebrasEngine(RemoteEngine):
    """`model` at Cerebras, or at a `base_url` (without `/v1`) that speaks its protocol.

    The key is `api_key`, or else what CEREBRAS_API_KEY holds; raises UserError without either. Further keywords are
    RemoteEngine's. `stats()` has `queue_time_p50_s` and `queue_time_max_s` beside the counters.
    """

    length_parameter = "max_completion_tokens"

    def __init__(self, model: str, *, base_url: str | None = None, api_key: str | None = None, **options: Any) -> None:
        import httpx
        from cerebras.cloud import sdk

        key = api_key or os.environ.get(KEY_VARIABLE)
        if not key:
            raise UserError(f"Cerebras needs an API key: export {KEY_VARIABLE}=...")
        client = sdk.AsyncCerebras(
            api_key=key,
            base_url=base_url,
            timeout=sdk.Timeout(None, connect=CONNECT_TIMEOUT_S),
            max_retries=0,
            warm_tcp_connection=False,  # it is a blocking call in the constructor
        )
        # this SDK lets a connection lost in mid-stream through as the HTTP library raises it
        super().__init__(model, client, sdk, KEY_VARIABLE, lost=(httpx.TransportError,), **options)
