"""Data sets of a user's own files."""
