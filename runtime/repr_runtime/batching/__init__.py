"""Many callers, few runs."""
