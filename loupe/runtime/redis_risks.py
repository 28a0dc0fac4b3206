"""Configurations of Redis that may lose jobs."""

import logging
from collections.abc import Iterator
from typing import Any

from redis import Redis, RedisCluster
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)


def find_risks(redis: Redis) -> list[str]:
    """Describe how the server's configuration may lose jobs; nothing if it keeps that secret."""
    try:
        nodes = list(_information(redis))
    except RedisError as error:
        logger.info("cannot check eviction and persistence of Redis: %s", error)
        return []
    risks = []
    policies = {node.get("maxmemory_policy", "") for node in nodes if int(node.get("maxmemory", 0))}
    for policy in sorted(policies):
        if policy.startswith("allkeys"):
            risks.append(
                f"Redis deletes unfinished jobs when its memory is full (maxmemory-policy {policy})"
                ". Set it to noeviction; new jobs are refused then."
            )
    if any(not int(node.get("aof_enabled", 1)) for node in nodes):
        risks.append(
            "Redis writes no append-only file: if it restarts, it loses all jobs since its last "
            "snapshot, if it makes any. Set appendonly to yes."
        )
    return risks


def _information(redis: Redis) -> Iterator[dict[str, Any]]:
    """Yield the information about memory and persistence of each primary."""
    targets: list[dict[str, Any]] = [{}]
    if isinstance(redis, RedisCluster):
        targets = [{"target_nodes": node} for node in redis.get_primaries()]
    for target in targets:
        yield redis.info("memory", **target) | redis.info("persistence", **target)
