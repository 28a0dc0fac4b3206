"""Benchmarks that compare Loupe with plain loops, other servers and other queues."""
