"""Data sets: find, read, split and show them."""
