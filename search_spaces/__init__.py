"""Study files that people copy, and what reads them."""
