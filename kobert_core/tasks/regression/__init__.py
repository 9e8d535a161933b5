"""A number for each text or pair, such as how similar both of a pair are: all that is known of this task."""
