"""Engines: built, checked, and their receipts."""
