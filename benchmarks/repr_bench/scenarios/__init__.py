"""MLPerf's shapes of load, and the way from a JPEG to a label."""
