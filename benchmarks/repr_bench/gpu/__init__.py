"""All that a machine with an NVIDIA GPU can show, in order of worth, within so many minutes."""
