"""The networks: one file a family, with its blocks, its network and its table of variants."""
