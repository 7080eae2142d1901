"""Shared utilities, without imports from other folders of the package."""

from lightning_transfer.utils.labels import IGNORED, Labels, match_outputs

__all__ = ["IGNORED", "Labels", "match_outputs"]
