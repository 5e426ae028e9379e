"""Low-rank adapters (LoRA, arXiv 2106.09685): the weights that a policy with adapters is equal to.

Merged outside of the model, from whole tensors: verl's own merge goes through bfloat16 and through the live weights,
and the engine would then sample from another policy than the learner's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Tensors = Iterator[tuple[str, Any]]
BASE, A, B = ".base_layer", ".lora_A.default.weight", ".lora_B.default.weight"
PREFIX = "base_model.model."


def merged(parameters: Mapping[str, Any], scale: float, whole: Any = lambda tensor: tensor) -> Tensors:
    """(name in the plain model, weight): W + scale * B A where there is an adapter, else the parameter as it is.

    `parameters` are PEFT's, by PEFT's names; `whole` makes a full tensor of a sharded one (a collective).
    """
    for name, parameter in parameters.items():
        if ".lora_" in name:
            continue
        plain = name.removeprefix(PREFIX).replace(BASE, "")
        module = name.removesuffix(f"{BASE}.weight")
        if module != name and module + A in parameters:
            a, b = whole(parameters[module + A]), whole(parameters[module + B])
            weight = whole(parameter)
            yield plain, weight + (scale * (b.float() @ a.float())).to(weight.dtype)
        else:
            yield plain, whole(parameter)
