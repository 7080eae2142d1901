"""Splits: training, validation and test rows, drawn by a hash."""
