"""How familiar an image is: an output of a model, and training with pictures of no class."""
