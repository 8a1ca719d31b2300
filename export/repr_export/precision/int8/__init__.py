"""int8: ranges from calibration images, and Q/DQ pairs."""
