"""Where the time goes: rooflines and profiles."""
