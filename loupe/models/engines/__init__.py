"""Engines run stored models."""
