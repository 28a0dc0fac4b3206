"""Stored models: the card, the store, the engines, and promotion."""
