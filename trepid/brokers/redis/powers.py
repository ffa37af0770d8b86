"""What a server can promise, read from it."""

from __future__ import annotations

from typing import Literal

from trepid.errors import BrokerRefusedError
from trepid.ports.capabilities import Capabilities
from trepid.wire.redis.faults import RedisError
from trepid.wire.redis.servers import Servers

_SETTINGS = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save", "maxmemory", "maxmemory-policy")


async def capabilities(servers: Servers, name: str, *, allow_eviction: bool) -> Capabilities:
    """Read what the server can promise.

    Raises:
      BrokerRefusedError: if it would forget our keys when its memory is full, and nobody said that it may.
    """
    about = servers.about
    settings = await _settings(servers)
    durability, proof = _durability(settings, about)
    # INFO says it, too, where CONFIG is forbidden.
    policy = settings.get("maxmemory-policy") or about.get("maxmemory_policy", "noeviction")
    most = settings.get("maxmemory") or about.get("maxmemory", "0")
    if policy != "noeviction" and most != "0":
        if not allow_eviction:
            raise BrokerRefusedError(
                name,
                f"maxmemory-policy is {policy}: when its memory is full it would throw jobs away; set it to "
                "noeviction, or add ?allow_eviction=1 to the URL if jobs may be lost",
            )
        durability, proof = "none", f"maxmemory-policy {policy}: jobs may be thrown away at any time"
    program = "Valkey" if "valkey_version" in about else "Redis"
    version = about.get("valkey_version") or about.get("redis_version", "?")
    clustered = servers.clustered
    return Capabilities(
        engine=f"{program} {version}" + (" Cluster" if clustered else ""),
        durability=durability,
        durability_proof=proof,
        delay_resolution=0.01,
        atomic_batches=not clustered,
        atomic_settling=not clustered,
        certain_cancellation=False,
        records=True,
    )


async def _settings(servers: Servers) -> dict[str, str]:
    try:
        found: dict[bytes, bytes] = await servers.call("", "CONFIG", "GET", *_SETTINGS)
    except (RedisError, BrokerRefusedError):  # forbidden, or renamed
        return {}
    return {name.decode(): value.decode() for name, value in found.items()}


def _durability(settings: dict[str, str], about: dict[str, str]) -> tuple[Literal["none", "process", "fsync"], str]:
    if not settings:
        if about.get("aof_enabled") == "1":
            return "process", "INFO says aof_enabled:1; CONFIG is forbidden, so appendfsync is not known"
        return "none", "CONFIG is forbidden, and INFO says aof_enabled:0"
    if settings.get("appendonly") != "yes":
        if settings.get("save"):
            return "none", f"appendonly no; snapshots only (save {settings['save']}): what came since the last is lost"
        return "none", "appendonly no, save empty: nothing is written to a disk"
    when = settings.get("appendfsync")
    if when == "always":
        if settings.get("no-appendfsync-on-rewrite") == "yes":
            return "process", "appendonly yes, appendfsync always, but no-appendfsync-on-rewrite yes"
        return "fsync", "appendonly yes, appendfsync always"
    if when == "everysec":
        return "process", "appendonly yes, appendfsync everysec: the loss of power costs up to a second"
    return "process", f"appendonly yes, appendfsync {when}: the system decides when it reaches the disk"
