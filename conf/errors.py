"""What a user can put right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's: one clear sentence that names it and says how to put it right."""


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`": did you mean PREFIXword?"` for the closest of `known`, or an empty string where none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f": did you mean {prefix}{close[0]}?" if close else ""
