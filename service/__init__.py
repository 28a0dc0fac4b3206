"""The HTTP service: one image or many, answered by the models in the store."""
