"""Command line: commands, help, error messages, logging."""

from lightning_transfer.cli.command_line import main
from lightning_transfer.cli.console_handler import ConsoleHandler

__all__ = ["ConsoleHandler", "main"]
