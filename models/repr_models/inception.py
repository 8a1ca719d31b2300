"""Inception-v3 and -v4."""
