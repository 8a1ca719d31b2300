"""The libraries that run graphs, behind one small protocol; each is imported when it is chosen."""
