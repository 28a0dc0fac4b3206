"""Requests of every kind, right, wrong and broken: whether the service answers rightly or refuses, and stays as it was."""
