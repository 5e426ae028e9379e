"""How a policy is served: `serve run deployments:app [recipe=NAME] [key=value ...]`."""

from __future__ import annotations

from typing import Any


def app(args: dict[str, Any]) -> Any:
    """The Serve application of a recipe and keys. Raises UserError, in one sentence, for what cannot be served."""
    from conf.load import load
    from deployments.command import application

    return application(load(["mode=serve", *(f"{key}={value}" for key, value in args.items())]))
