"""Measuring a trained model, and the report on it."""
