"""Benchmarks: what Loupe costs beside the barest program that does the same, measured in turns in one run."""
