"""Tests of the worker, in process."""
