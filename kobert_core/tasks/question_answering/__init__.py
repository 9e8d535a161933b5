"""Extractive question answering: all that is known of this task."""
