"""Loupe's own protocol: pictures of any kind in, labels and probabilities by name out."""
