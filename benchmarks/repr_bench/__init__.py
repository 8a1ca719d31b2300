"""Artifacts to figures: latency and accuracy of what was really built, and a report of them."""
