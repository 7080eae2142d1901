"""Sweeps: Hydra sweepers, job records, and the table of a sweep."""
