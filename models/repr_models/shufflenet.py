"""ShuffleNet v1 and v2."""
