"""Named entity recognition: all that is known of this task."""
