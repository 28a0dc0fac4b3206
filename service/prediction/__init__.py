"""From a request to probabilities: decoding, batching, served models."""
