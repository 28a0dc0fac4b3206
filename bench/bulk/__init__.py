"""Benchmarks of bulk scoring: sources, peers, waiting times, and the queue."""
