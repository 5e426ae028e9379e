"""Sizes of dense decoders: from a model's folder, or by name where there is no hub to ask.

The table holds the numbers of each model's published config.json; `dense_stats` counts parameters from them, and the
counts agree with the published ones to the last one (tests/test_scale.py).
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

MAX_HEADER = 100 << 20  # the safetensors format allows no longer header


@dataclass(frozen=True)
class ModelStats:
    """What memory and time of a dense decoder follow from. `params`: count of parameters, tied ones once.

    `q_width`, `kv_width`: heads times head size; `intermediate`: width of the gated MLP.
    """

    params: int
    hidden_size: int
    layers: int
    vocab_size: int
    q_width: int
    kv_width: int
    intermediate: int
    tied: bool = False

    @property
    def layer_params(self) -> int:
        """Parameters of one transformer layer (the biases of Qwen2's q, k and v included)."""
        attention = 2 * self.hidden_size * self.q_width + 2 * self.hidden_size * self.kv_width
        return attention + self.q_width + 2 * self.kv_width + self.hidden_size * (3 * self.intermediate + 2)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token takes in a 16-bit KV cache."""
        return 2 * 2 * self.layers * self.kv_width

    def lora_params(self, rank: int) -> int:
        """Parameters of adapters on every linear layer but the head: rank times input plus output width."""
        h, q, kv, m = self.hidden_size, self.q_width, self.kv_width, self.intermediate
        return self.layers * rank * (2 * (h + q) + 2 * (h + kv) + 3 * (h + m))

    def activation_bytes(self, tokens: int, recomputed: bool, dtype_bytes: int = 2) -> int:
        """Bytes that the backward pass of `tokens` needs: kept values of each layer, and the logits.

        A layer keeps the inputs of its two norms, of q, k, v and of attention, the head's and the output projection's
        (6 hidden + 2 kv values), and gate, up, silu(gate) and their product (4 intermediate); where `recomputed`, its
        input only, and the values of one layer at a time. Logits and their gradient are in float32.
        """
        layer = 6 * self.hidden_size + 2 * self.kv_width + 4 * self.intermediate
        kept = self.layers * self.hidden_size + layer if recomputed else self.layers * layer
        return tokens * (kept * dtype_bytes + 2 * 4 * self.vocab_size)


# name -> hidden, layers, heads, kv heads, MLP width, vocabulary, tied: config.json of Qwen/Qwen2.5-*B on the hub
QWEN25 = {
    "0.5": (896, 24, 14, 2, 4864, 151936, True),
    "1.5": (1536, 28, 12, 2, 8960, 151936, True),
    "3": (2048, 36, 16, 2, 11008, 151936, True),
    "7": (3584, 28, 28, 4, 18944, 152064, False),
    "14": (5120, 48, 40, 8, 13824, 152064, False),
    "32": (5120, 64, 40, 8, 27648, 152064, False),
    "72": (8192, 80, 64, 8, 29568, 152064, False),
}
FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
          "vocab_size", "tie_word_embeddings")


def known_stats(name: str) -> ModelStats | None:
    """The sizes that a model's name tells (`Qwen/Qwen2.5-32B-Instruct`, `runs/Qwen2.5-32B-sft`), or None."""
    match = re.search(r"Qwen2\.5(?:-Math|-Coder)?-(\d+(?:\.\d+)?)B(?![A-Za-z0-9])", name)
    if match is None or match[1] not in QWEN25:
        return None
    return dense_stats(dict(zip(FIELDS, QWEN25[match[1]])))


def folder_stats(folder: Path) -> ModelStats | None:
    """Sizes from a folder's config.json and its weights' headers, or None where they cannot be read."""
    try:
        stats = dense_stats(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a plan promises nothing about a folder it cannot read; conf.checks refuses it with the reason
    counted = sum(_safetensors_params(f) for f in sorted(folder.glob("*.safetensors")))
    return ModelStats(**{**vars(stats), "params": counted or stats.params})


def dense_stats(c: dict) -> ModelStats:
    """Sizes of a Llama/Qwen2-like decoder from the fields of its config.json."""
    hidden, heads = int(c["hidden_size"]), int(c["num_attention_heads"])
    head_dim = int(c.get("head_dim") or hidden // heads)
    kv, tied = int(c.get("num_key_value_heads") or heads) * head_dim, bool(c.get("tie_word_embeddings"))
    sizes = (hidden, int(c["num_hidden_layers"]), int(c["vocab_size"]), heads * head_dim, kv,
             int(c["intermediate_size"]), tied)
    layer = ModelStats(0, *sizes).layer_params
    params = sizes[1] * layer + sizes[2] * hidden * (1 if tied else 2) + hidden
    return ModelStats(params, *sizes)


def _safetensors_params(path: Path) -> int:
    """Parameters in a safetensors file: 8 bytes of header length (little-endian), then the header as JSON."""
    try:
        with path.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(length)) if length <= MAX_HEADER else {}
    except (OSError, ValueError, struct.error):
        return 0  # torn or unreadable: the estimate falls back to config.json
    shapes = [t["shape"] for name, t in header.items() if name != "__metadata__"]
    return sum(math.prod(shape) for shape in shapes)
