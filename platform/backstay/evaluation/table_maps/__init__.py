"""Bring your own vectors: which map leads from one embedding table back to an older one."""
