"""Sweeps: sweepers for Hydra, records of jobs, the table of a sweep."""
