"""Scoring inside other engines: Ray, Spark, Dask and plain Python."""
