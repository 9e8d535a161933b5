"""From files to what goes on the device together."""
