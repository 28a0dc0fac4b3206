"""Tests of whole programs, as a user runs them."""
