"""Studies and sweeps from Python, and what a driver of sweeps is. The command line is a layer over this."""
