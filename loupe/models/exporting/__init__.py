"""Export of stored models for other programs."""
