"""Loupe's whole job in two minutes: train, serve, and bulk-score, on real data."""
