"""The protocols that the service speaks."""
