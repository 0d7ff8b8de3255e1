"""Versions as they are published: manifests, the store, embedding tables."""
