"""Shared tools that import nothing else of the package."""

from lightning_transfer.utils.labels import Labels, match_outputs

__all__ = ["Labels", "match_outputs"]
