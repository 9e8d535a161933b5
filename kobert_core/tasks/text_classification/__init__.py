"""Classification of texts: all that is known of this task."""
