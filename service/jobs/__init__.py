"""Bulk-scoring jobs over HTTP."""
