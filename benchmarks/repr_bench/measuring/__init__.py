"""Timing rows in turn, and watching the machine meanwhile."""
