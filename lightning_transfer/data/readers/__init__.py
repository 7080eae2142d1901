"""Readers: from files to checked rows and documents."""
