"""Train, validation and test splits, drawn by a hash."""
