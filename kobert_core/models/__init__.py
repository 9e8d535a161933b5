"""Encoders: where they come from, and how they run without padding. A task adds its head."""
