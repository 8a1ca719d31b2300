"""Inception-ResNet-v2."""
