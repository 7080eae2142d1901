"""Where raw text comes from: documents, one after another, never all at once."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lightning_transfer.data.splits import normalize


@dataclass(frozen=True)
class Document:
    """A text that belongs together: a review, an article, a chapter.

    Args:
        text: The text, not empty.
        group: Documents of one group stay in one split; ``None``: its own text is its group.
    """

    text: str
    group: str | None = None

    @property
    def key(self) -> int:
        """A number that texts share if they differ in case, spaces or signs only, in [0, 2^64)."""
        return _number(normalize(self.text))

    @property
    def group_key(self) -> int:
        """A number of the group, in [0, 2^64)."""
        return self.key if self.group is None else _number(f"group:{self.group}")


@runtime_checkable
class Documents(Protocol):
    """A source of documents that can be gone through more than once."""

    @property
    def where(self) -> str:
        """Name of the source in messages."""
        ...

    def digest(self) -> str:
        """Return a hash of all that the documents follow from; equal digests, equal documents."""
        ...

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents, in the same order each time."""
        ...


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
