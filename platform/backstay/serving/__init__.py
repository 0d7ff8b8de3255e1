"""Versioned look-ups: the service, its media types, and the client."""
