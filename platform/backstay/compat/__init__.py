"""Backward maps and chains, alignment losses, fits, and the table of update methods."""
