"""The Open Inference Protocol v2, as tensors, JSON and messages."""
