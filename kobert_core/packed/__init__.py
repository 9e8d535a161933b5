"""Attention and layers over sequences that lie end to end, without padding."""
