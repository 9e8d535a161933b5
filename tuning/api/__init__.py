"""Studies and sweeps from Python."""
