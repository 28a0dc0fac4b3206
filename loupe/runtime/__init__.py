"""Processes, ports, cores and the Redis server of this machine."""
