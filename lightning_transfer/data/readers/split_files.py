"""Assignment of a user's files to splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_transfer.data.splits.splitter import SPLITS

# The names in use for published data sets.
STEMS = {"train": "train", "validation": "validation", "valid": "validation"}
STEMS |= {"val": "validation", "dev": "validation", "test": "test"}
"""Name of a file without extension -> split."""

Source = str | Mapping[str, str] | None


def split_files(source: Source, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return split -> file.

    Args:
        source: A file, with all rows in the training split until others are drawn from it; a folder
            with files named after their splits; or a mapping of split to file.
        suffixes: Extensions of the files to use in a folder.

    Raises:
        FileNotFoundError: If there is no source, or the folder has no such file.
        ValueError: If a mapping has an unknown split, or a folder has two files of one split.
    """
    if not source:
        formats = ", ".join(suffix.removeprefix(".") for suffix in suffixes)
        raise FileNotFoundError(
            f"no file given; set data.source to a {formats} file, or to a folder with train, "
            "validation and test files"
        )
    if isinstance(source, Mapping):
        return split_mapping(source)
    path = Path(source).expanduser()
    # With training rows only, the splitter draws the other splits from them.
    return _in_folder(path, suffixes) if path.is_dir() else {"train": path}


def split_mapping(source: Mapping[str, str]) -> dict[str, Path]:
    """Return split -> path for a source with the splits as keys.

    Args:
        source: ``train``, ``validation`` or ``test`` -> path.

    Raises:
        ValueError: If a split is unknown.
    """
    unknown = sorted(set(source) - set(SPLITS))
    if unknown:
        raise ValueError(
            f"keys of source must be one of {', '.join(SPLITS)}, got {', '.join(unknown)}"
        )
    return {split: Path(path).expanduser() for split, path in source.items()}


def source_name(source: Source) -> str:
    """Return the names of the files of a source, for messages."""
    if isinstance(source, str):
        return Path(source).name
    return ", ".join(Path(path).name for path in (source or {}).values())


def list_folder(folder: Path) -> str:
    """Return the first names in a folder, for messages."""
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"


def _in_folder(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    # Other files are ignored: folders of data often have a README or a licence.
    for path in sorted(folder.iterdir()):
        split = STEMS.get(path.stem.lower())
        if split is None or path.suffix.lower() not in suffixes:
            continue
        if split in paths:
            raise ValueError(
                f"{folder} has two files of {split} rows, {paths[split].name} and {path.name}; "
                "choose one with data.source={train: ..., validation: ..., test: ...}"
            )
        paths[split] = path
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no train, validation or test file ({', '.join(suffixes)}); it contains "
            f"{list_folder(folder)}"
        )
    return paths
