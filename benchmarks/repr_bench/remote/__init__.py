"""Servers of the Open Inference Protocol v2, asked beside the artifact itself."""
