"""Benchmarks of the service, and the programs and load generators they need."""
