"""Given models by format: what opens, checks, runs and stores them."""
