"""Where unpacked assets lie, and whether a folder there is whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from lightning_transfer.assets.pins import Asset, find_asset

_MANIFEST = ".manifest.json"


def cache_dir() -> Path:
    """Return the absolute path of the cache folder; it need not exist yet.

    ``LIGHTNING_TRANSFER_CACHE`` moves it; else it is the platform's cache folder, which on Linux
    follows ``XDG_CACHE_HOME``.
    """
    stated = os.environ.get("LIGHTNING_TRANSFER_CACHE")
    if stated:
        # Absolute at once: Hydra may change the working directory in mid-run.
        return Path(stated).expanduser().absolute()
    return platformdirs.user_cache_path("lightning_transfer", appauthor=False)


def asset_folder(asset: Asset) -> Path:
    """Return where ``asset`` lies once it is fetched."""
    return cache_dir() / "assets" / asset.key


def cached(name: str | Asset) -> Path | None:
    """Return the folder of an asset that is in the cache and whole, else ``None``.

    Reads only, and never touches the network. Every file of it is looked at (name and size, not
    content), because caches get copied by hand and such copies break off.

    Args:
        name: Name of an asset, or the asset.

    Raises:
        ValueError: If there is no asset of that name.
    """
    asset = name if isinstance(name, Asset) else find_asset(name)
    folder = asset_folder(asset)
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["sha256"] != asset.sha256:
            return None
        whole = all(
            (folder / path).stat().st_size == size for path, size in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return folder if whole else None


def write_manifest(folder: Path, asset: Asset, sizes: Mapping[str, int]) -> None:
    """Note in ``folder`` what it holds: relative paths and their sizes in bytes."""
    manifest = {
        "name": asset.name,
        "distribution": asset.distribution,
        "version": asset.version,
        "sha256": asset.sha256,
        "licence": asset.licence,
        "citation": asset.citation,
        "files": dict(sizes),
    }
    with (folder / _MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
