"""OpenVINO on the CPU, an extra: what it can compute here, a graph compiled, and run."""
