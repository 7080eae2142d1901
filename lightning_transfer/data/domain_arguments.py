"""Checks of what all domains are given."""

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
    """Check what says how many rows of a domain are used, and how they are read.

    Args:
        train_size: Training rows: a count, a fraction or ``8/class``; ``None``: all.
        batch_size: Rows per device and batch.
        max_tokens: Tokens per device and batch; ``None``: any number.
        on_bad_row: ``error`` or ``skip``.

    Raises:
        ValueError: If one is out of its range.
    """
    check_train_size(train_size)
    for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}; set data.{name}")
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f"on_bad_row must be error or skip, got {on_bad_row!r}")


def one_path(source: str | Mapping[str, str] | None, owner: str) -> Path | None:
    """Return the source of a domain that takes one file or folder, ``None`` if there is none.

    Args:
        source: What the domain was given.
        owner: The domain's name, for the message.

    Raises:
        ValueError: If the source is several files.
    """
    if isinstance(source, Mapping):
        raise ValueError(f"{owner} takes one path as its source, got {dict(source)}")
    return Path(source).expanduser() if source else None
