"""Files for tests that are slow, unusual or hard to make."""
