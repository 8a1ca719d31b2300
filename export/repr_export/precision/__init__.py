"""Graphs of lower precision, and the receipts of what they are and what they cost."""
