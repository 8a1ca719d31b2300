"""What the sessions that are timed get right."""
