"""Any number of labels for each text or pair: all that is known of this task."""
