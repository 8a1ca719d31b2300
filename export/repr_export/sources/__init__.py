"""What is exported: a registered network, a torch factory, or an ONNX file."""
