"""Exceptions shared by the command line and the sweeps."""


class UsageError(ValueError):
    """A command line that cannot be run: exit code 2, and nothing was touched."""
