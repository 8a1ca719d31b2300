"""The folder that carries a network: its manifest, reading it, writing it."""
