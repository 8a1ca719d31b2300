"""A Triton Inference Server model repository of what was exported."""
