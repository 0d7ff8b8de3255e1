"""Versioned look-ups: the service, its wire formats, and the client."""
