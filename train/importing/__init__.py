"""Import of models that other programs trained."""
