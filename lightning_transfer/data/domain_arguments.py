"""Checks of the arguments that all DataModules share."""

from collections.abc import Mapping
from pathlib import Path

from lightning_transfer.data.splits.subset import check_train_size


def check_arguments(
    *,
    train_size: int | float | str | None,
    batch_size: int,
    max_tokens: int | None,
    on_bad_row: str,
) -> None:
    """Check the sizes of a DataModule and its treatment of bad rows.

    Args:
        train_size: Training rows: a count, a fraction in [0, 1], or a count per class such as
            ``8/class``; ``None``: all.
        batch_size: Rows per device and batch, >= 1.
        max_tokens: Tokens per device and batch, >= 1; ``None``: no limit.
        on_bad_row: ``error`` or ``skip``.

    Raises:
        ValueError: If an argument is out of range or unknown.
    """
    # Checked by the constructor, before a download or a tokenization of several minutes.
    check_train_size(train_size)
    for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}; set data.{name}")
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f"on_bad_row must be error or skip, got {on_bad_row!r}")


def one_path(source: str | Mapping[str, str] | None, owner: str) -> Path | None:
    """Return the source of a DataModule with a single file or folder; ``None`` without a source.

    Args:
        source: The argument ``source`` of the DataModule.
        owner: Name of the DataModule, for the message.

    Raises:
        ValueError: If the source is a mapping of several files.
    """
    if isinstance(source, Mapping):
        raise ValueError(f"source of {owner} must be one path, got {dict(source)}")
    # The shell does not expand ~ in an override such as data.source=~/mails.
    return Path(source).expanduser() if source else None
