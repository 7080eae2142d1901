"""Cache folder of unpacked assets, and the check of their completeness."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from lightning_transfer.assets.pins import Asset, find_asset

_MANIFEST = ".manifest.json"


def cache_dir() -> Path:
    """Return the absolute path of the cache folder, which may not exist yet.

    It is ``LIGHTNING_TRANSFER_CACHE`` if this environment variable is set. Otherwise it is in the
    cache folder of the platform, on Linux ``XDG_CACHE_HOME``.
    """
    value = os.environ.get("LIGHTNING_TRANSFER_CACHE")
    if value:
        # Made absolute here: Hydra may change the working directory during a run.
        return Path(value).expanduser().absolute()
    return platformdirs.user_cache_path("lightning_transfer", appauthor=False)


def asset_folder(asset: Asset) -> Path:
    """Return the cache folder of an asset, which exists after the asset has been fetched."""
    return cache_dir() / "assets" / asset.key


def cached(name: str | Asset) -> Path | None:
    """Return the folder of a completely cached asset, else ``None``.

    This function never writes and never uses the network. It checks the name and the size of each
    file, not the content.

    Args:
        name: Name of an asset, or an :class:`Asset`.

    Raises:
        ValueError: If the name is unknown.
    """
    asset = name if isinstance(name, Asset) else find_asset(name)
    folder = asset_folder(asset)
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["sha256"] != asset.sha256:
            return None
        # Every file is checked, because users copy caches by hand, and a copy may be incomplete.
        complete = all(
            (folder / path).stat().st_size == size for path, size in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # No folder, a missing file, or a damaged manifest, for example a list instead of a mapping.
        return None
    return folder if complete else None


def write_manifest(folder: Path, asset: Asset, sizes: Mapping[str, int]) -> None:
    """Write the manifest of an unpacked asset.

    Args:
        folder: Folder of the asset.
        asset: The asset.
        sizes: Relative path -> size in bytes of each unpacked file.
    """
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
