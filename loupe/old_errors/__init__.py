"""Errors that are about to move to where they are raised."""
