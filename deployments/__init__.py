"""How a policy is served: `serve run deployments:app [recipe=NAME] [key=value ...]`."""

from __future__ import annotations

from typing import Any


def app(args: dict[str, Any]) -> Any:
    """The Serve application of a recipe and keys.

    Raises Mistake, one sentence that the `serve` command prints, for what cannot be served.
    """
    from conf.errors import UserError
    from conf.load import load
    from deployments.command import Mistake, application, show_log

    show_log()
    try:
        return application(load(["mode=serve", *(f"{key}={value}" for key, value in args.items())]))
    except UserError as error:
        raise Mistake(str(error)) from None
