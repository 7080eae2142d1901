"""Texts of a labelled data set as documents for pretraining."""

import hashlib
from collections.abc import Iterator

from lightning_transfer.data.readers.documents import Document
from lightning_transfer.data.readers.rows import group_name, read_columns, text_fault
from lightning_transfer.data.text_data_module import TextDataModule


class DomainDocuments:
    """Rows of a labelled data set as documents. Labels are not read.

    Rows without a text are left out.

    Args:
        domain: DataModule with the rows, such as ``Imdb()``.

    Example:
        >>> class Weather(TextDataModule):
        ...     def load_rows(self):
        ...         return {"text": ["dry", "", "wet"], "label": [1, 2, 3]}
        >>> from lightning_transfer.data import LabelSpec
        >>> [document.text for document in DomainDocuments(Weather(label=LabelSpec()))]
        ['dry', 'wet']
    """

    def __init__(self, domain: TextDataModule) -> None:
        """See the class."""
        self.domain = domain
        # Kept, because the documents are iterated several times: for the index and the tokens.
        self._documents: list[Document] | None = None

    @property
    def where(self) -> str:
        """Name of the data in messages."""
        return self.domain.where

    def digest(self) -> str:
        """Return a hash of the texts and their groups."""
        state = hashlib.sha256(b"domain")
        for document in self._load():
            # With the length, so that text and group cannot be confused.
            for part in (document.text, document.group or ""):
                content = part.encode()
                state.update(len(content).to_bytes(8, "little"))
                state.update(content)
        return state.hexdigest()

    def __iter__(self) -> Iterator[Document]:
        """Yield one document per row."""
        return iter(self._load())

    def _load(self) -> list[Document]:
        if self._documents is None:
            # load_rows() and not setup(): the check of the rows would read the labels.
            columns = read_columns(self.domain.load_rows(), self.domain.where)
            texts = columns["text"]
            groups = columns.get("group") or [None] * len(texts)
            self._documents = [
                Document(text, group_name(group))
                for text, group in zip(texts, groups, strict=True)
                if text_fault(text) is None
            ]
        return self._documents
