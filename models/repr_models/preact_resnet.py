"""Pre-activation ResNets."""
