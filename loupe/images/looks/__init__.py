"""How pictures become images that look like training data, one module per look."""
