"""Bring your own vectors: compares maps from one embedding table back to an older one."""
