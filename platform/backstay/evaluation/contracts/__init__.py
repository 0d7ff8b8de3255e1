"""Consumer contracts, run on the vectors of a version."""
