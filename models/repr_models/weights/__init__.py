"""Trained weights: bundled, downloaded, from a file, or drawn at random."""
