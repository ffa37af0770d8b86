"""The engines on which storms take place, each with a server of its own that may be killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.storm import Theatre

ENGINES = ("sqlite", "redis", "postgres", "rabbitmq", "nats")
SERVERS = ENGINES[1:]


def theatre(name: str, folder: Path, request: pytest.FixtureRequest) -> Theatre:
    """Return a theatre for an engine; its server ends with the test."""
    if name == "sqlite":
        path = folder / "jobs.db"
        return Theatre(f"sqlite:{path}", audit=lambda: _integrity(path))
    start: Callable[..., Any] = request.getfixturevalue(f"own_{name}")
    # As the guide to RabbitMQ advises: else what falls due while it boots, such as a crashed job, comes minutes later.
    options = {"settings": {"dead_letter_worker_publisher_confirm_timeout": 2000}} if name == "rabbitmq" else {}
    server = start(**options)
    return Theatre(server.url, server, copies=name == "rabbitmq")


def _integrity(path: Path) -> str:
    database = sqlite3.connect(path)
    try:
        [found] = database.execute("PRAGMA integrity_check").fetchone()
    finally:
        database.close()
    return str(found)
