"""MobileNet v1 and v2."""
