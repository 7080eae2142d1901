"""DataModules of single data sets, and of a user's own files."""
