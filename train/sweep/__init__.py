"""Sweeps: the same training with many settings."""
