"""Fuzzing: valid, invalid and malformed requests on all routes of the service."""
