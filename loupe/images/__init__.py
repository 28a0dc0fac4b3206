"""Pictures: read them safely and make them look like training data."""
