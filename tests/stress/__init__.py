"""Stress tests: fuzzing, chaos and soaking. Each also runs as a program."""
