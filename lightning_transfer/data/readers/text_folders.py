"""Reader of texts in one folder per class."""

from collections.abc import Sequence
from pathlib import Path


def read_text_folders(folders: Sequence[Path], *, form: str) -> dict[str, list[str]]:
    """Read all files ``<class>/<name>.txt`` in some folders, sorted by path.

    Line ends are converted to those of Unix. A file that is not UTF-8 is read as Latin-1.

    Args:
        folders: Folders with one subfolder per class.
        form: Form of the paths in the message, such as ``<topic>/<article>.txt``.

    Returns:
        Columns ``text``, ``label`` (name of the subfolder) and ``row`` (path, for messages).

    Raises:
        FileNotFoundError: If a folder has no such file.
    """
    table: dict[str, list[str]] = {"text": [], "label": [], "row": []}
    for folder in folders:
        # Sorted: of duplicates the first one is kept, so the file system must not order them.
        paths = sorted(folder.glob("*/*.txt"))
        if not paths:
            raise FileNotFoundError(
                f"no {form} in {folder}; set data.source to a folder with such files, or to null "
                "for the packaged data"
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
        # Some of the packaged mails and articles are in Latin-1, which decodes any bytes.
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n")
