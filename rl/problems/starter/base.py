"""What the six families share: the instance, its solution, and one small stock of words.

The stock is small on purpose: the starter's tokenizer has 640 tokens, so few words means short prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAMES = ("Ann", "Bob", "Cy", "Dan", "Eve", "Fay", "Gus", "Hal")
ITEMS = ("pen", "cup", "hat", "key", "bag", "toy", "nut", "map")


@dataclass(frozen=True)
class Instance:
    """One generated problem. `ground_truth` has the type that Guru uses for the domain."""

    question: str
    ground_truth: Any
    data_source: str
    kind: str


@dataclass(frozen=True)
class Solution:
    """`plan` names the method only; `think` is the worked trace; `answer` goes between the answer tags."""

    plan: str
    think: str
    answer: str

    @property
    def response(self) -> str:
        """The assistant's whole message."""
        return f"<think>{self.think}</think><answer>{self.answer}</answer>"
