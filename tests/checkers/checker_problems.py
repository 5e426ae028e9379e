"""Problems for the checkers' tests."""

from __future__ import annotations

import json
from typing import Any

from actors.messages import Problem


def problem(data_source: str, truth: Any, question: str = "", **extra_info: Any) -> Problem:
    message = {"role": "user", "content": question}
    return Problem("p", (message,), data_source, "", json.dumps(truth), extra_info)
