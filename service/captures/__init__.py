"""A sample of served pictures, kept for people who look through it; off by default."""
