"""Read texts that lie in a folder for each class."""

from collections.abc import Sequence
from pathlib import Path


def read_text_folders(folders: Sequence[Path], *, form: str) -> dict[str, list[str]]:
    """Return one row for each ``<class>/<name>.txt`` in some folders, in order of their names.

    Line ends become those of Unix. A file that is not UTF-8 is read as Latin-1.

    Args:
        folders: Each holds a folder for each class.
        form: What the files are called in the message: ``<topic>/<article>.txt``.

    Returns:
        ``text``, ``label`` (the name of the class's folder), ``row`` (the path, for messages).

    Raises:
        FileNotFoundError: If a folder holds no such file.
    """
    table: dict[str, list[str]] = {"text": [], "label": [], "row": []}
    for folder in folders:
        paths = sorted(folder.glob("*/*.txt"))
        if not paths:
            raise FileNotFoundError(
                f"no {form} in {folder}; set source to a folder, or leave it out"
            )
        for path in paths:
            table["text"].append(_decode(path.read_bytes()))
            table["label"].append(path.parent.name)
            table["row"].append(f"{path.parent.name}/{path.name}")
    return table


def _decode(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n")
