"""Which of the user's files holds which split."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_transfer.data.splits.splitter import SPLITS

STEMS = {"train": "train", "validation": "validation", "valid": "validation"}
STEMS |= {"val": "validation", "dev": "validation", "test": "test"}
"""What a file of a split may be called."""

Source = str | Mapping[str, str] | None


def split_files(source: Source, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return split -> file.

    Args:
        source: A file, whose rows are all for training until splits are cut from them; a folder
            with files called after their splits; or a mapping of split to file.
        suffixes: What the names of files in a folder may end in.

    Raises:
        FileNotFoundError: If there is no source, or no such file in the folder.
        ValueError: If a mapping names something that is no split, or a split has two files.
    """
    if not source:
        forms = ", ".join(suffix.removeprefix(".") for suffix in suffixes)
        raise FileNotFoundError(
            f"no file given; set source to a {forms} file, or to a folder with train, validation "
            "and test files (data.source=... on the command line)"
        )
    if isinstance(source, Mapping):
        return split_mapping(source)
    path = Path(source).expanduser()
    return _in_folder(path, suffixes) if path.is_dir() else {"train": path}


def split_mapping(source: Mapping[str, str]) -> dict[str, Path]:
    """Return split -> path of a source that names them.

    Args:
        source: ``train``, ``validation`` or ``test`` -> path.

    Raises:
        ValueError: If it names something that is no split.
    """
    unknown = sorted(set(source) - set(SPLITS))
    if unknown:
        raise ValueError(f"source may name {', '.join(SPLITS)}, got {', '.join(unknown)}")
    return {split: Path(path).expanduser() for split, path in source.items()}


def name_of(source: Source) -> str:
    """Return what the files are called in messages."""
    if isinstance(source, str):
        return Path(source).name
    return ", ".join(Path(path).name for path in (source or {}).values())


def _in_folder(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = STEMS.get(path.stem.lower())
        if split is None or path.suffix.lower() not in suffixes:
            continue
        if split in paths:
            raise ValueError(
                f"{folder} has two files of {split} rows, {paths[split].name} and {path.name}; "
                "say which with a mapping: source={train: ..., validation: ..., test: ...}"
            )
        paths[split] = path
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no train, validation or test file ({', '.join(suffixes)}); it has "
            f"{', '.join(sorted(path.name for path in folder.iterdir())[:8]) or 'nothing'}"
        )
    return paths
