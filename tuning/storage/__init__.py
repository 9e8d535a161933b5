"""Sweeps whose durable home is an object store: see docs/object-storage.md."""
