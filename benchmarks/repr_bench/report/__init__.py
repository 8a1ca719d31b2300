"""Results for a reader: the table on a terminal and the page in a browser."""
