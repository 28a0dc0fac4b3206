"""Code of the documentation site."""
