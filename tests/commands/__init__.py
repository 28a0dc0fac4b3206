"""Tests of the command groups of loupe."""
