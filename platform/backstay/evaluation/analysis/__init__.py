"""What a comparison's results mean, as figures and codes."""
