"""The tests: real models, a real Redis, real processes, all of them small."""
