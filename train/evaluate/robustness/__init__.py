"""How well a model reads disturbed pictures: the generators, and the measurement."""
