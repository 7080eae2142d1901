"""Domains: one DataModule for each corpus or kind of file."""
