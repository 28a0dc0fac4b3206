"""Bulk scoring: the queue, the process that empties it, and what it reads and writes."""
