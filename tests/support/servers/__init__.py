"""Servers and connections for tests."""
