"""What a run found: rows of all kinds, and their JSON file."""
