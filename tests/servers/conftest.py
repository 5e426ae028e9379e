"""Fixtures for what talks HTTP."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
from loopback import Loopback


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new client loads the machine's certificates, which takes longer than a test here; plain HTTP needs none."""
    for method in ("load_verify_locations", "load_default_certs"):
        monkeypatch.setattr(ssl.SSLContext, method, lambda *_, **__: None)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as loopback:
        yield loopback
