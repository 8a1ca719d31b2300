"""Intervals, shifts and verdicts: pure functions."""
