"""What tasks on tables of texts share: one text or a pair a row, and something to say of it as a whole."""
