"""Files: written whole or not at all, and with checksums that tell whether they are what was written."""
