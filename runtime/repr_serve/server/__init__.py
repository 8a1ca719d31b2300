"""The process around the application: connections, its log, its beginning and end."""
