"""Xception."""
