"""What is the fastest on this CPU: what is tried, the search among it, and what is kept."""
