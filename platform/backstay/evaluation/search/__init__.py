"""Searching the settings of a joint method: trials, the rule that chooses, and an honest judge."""
