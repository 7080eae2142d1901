"""Exceptions shared by the command line and the sweeps."""


class UsageError(ValueError):
    """An invalid command line: the command exits with code 2 and has changed nothing."""
