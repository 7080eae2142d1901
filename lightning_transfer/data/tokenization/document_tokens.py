"""Token ids of documents in one memory-mapped Arrow file, written as they come."""

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from lightning_transfer.assets import cache_dir
from lightning_transfer.data.readers.documents import Document, Documents
from lightning_transfer.data.tokenization.sentences import split_sentences
from lightning_transfer.data.tokenization.token_cache import tokenizer_content
from lightning_transfer.utils.atomic_files import atomic_path

log = logging.getLogger(__name__)

_FORMAT = 1  # of the cached file and of the way text is cut into sentences
_DOCUMENTS, _CHARS = 512, 1 << 22  # at most in one batch: bounds the memory
_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("sentences", pa.list_(pa.int32()))])


_Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class DocumentTokens:
    """Tokens of each document, without special tokens, and where its sentences begin.

    The arrays lie on disk; only what is read of them is in memory, and a few bytes a document.

    Args:
        batches: Of each record batch: ids of its documents end to end, int32 ``(tokens,)``, where
            each begins, ``(documents + 1,)``, and the same of the beginnings of sentences.
    """

    def __init__(self, batches: list[_Batch]) -> None:
        """See the class."""
        self._batches = batches
        self._first = np.cumsum([0, *(len(starts) - 1 for _, starts, _, _ in batches)])
        sizes = [np.diff(starts) for _, starts, _, _ in batches]
        self.lengths = np.concatenate([*sizes, np.empty(0)]).astype(np.int64)  # (documents,)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.lengths)

    def ids(self, document: int) -> np.ndarray:
        """Return the ids of a document, int32 ``(tokens,)``."""
        batch, row = self._place(document)
        ids, starts, _, _ = self._batches[batch]
        return ids[starts[row] : starts[row + 1]]

    def sentences(self, document: int) -> np.ndarray:
        """Return at which token each sentence begins, int32 ``(sentences,)``, the first at 0."""
        batch, row = self._place(document)
        _, _, sentences, starts = self._batches[batch]
        return sentences[starts[row] : starts[row + 1]]

    def counts(self, documents: np.ndarray, size: int) -> np.ndarray:
        """Return how often each id occurs in some documents, int64 ``(size,)``."""
        total = np.zeros(size, dtype=np.int64)
        for start in range(0, len(documents), _DOCUMENTS):
            some = [self.ids(int(document)) for document in documents[start : start + _DOCUMENTS]]
            total += np.bincount(np.concatenate(some), minlength=size)
        return total

    def _place(self, document: int) -> tuple[int, int]:
        batch = int(np.searchsorted(self._first, document, side="right")) - 1
        return batch, int(document - self._first[batch])

    @classmethod
    def read(cls, path: Path) -> "DocumentTokens":
        """Map the file at ``path`` into memory.

        Raises:
            OSError: If there is no such file.
            pyarrow.ArrowInvalid: If it is not a file of tokens.
        """
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema != _SCHEMA:
            raise pa.ArrowInvalid(f"{path} is not a file of tokens of documents")
        batches = []
        for number in range(reader.num_record_batches):
            ids, sentences = reader.get_batch(number).columns
            parts = (ids.values, ids.offsets, sentences.values, sentences.offsets)
            batches.append(tuple(part.to_numpy() for part in parts))
        return cls(batches)


def cached_documents(
    documents: Documents,
    excluded: np.ndarray,
    *,
    tokenizer: PreTrainedTokenizerBase,
    sentences: bool,
) -> DocumentTokens:
    """Return the tokens of a source, from the cache if it was tokenized so before.

    Args:
        documents: The source; gone through once, and never held in memory.
        excluded: Documents that get no tokens, bool ``(documents,)``.
        tokenizer: Any Hugging Face tokenizer.
        sentences: Whether to find the beginnings of sentences; each is then tokenized by itself.

    Raises:
        OSError: If the cache cannot be written: such text may not fit into memory.
    """
    state = hashlib.sha256(f"{_FORMAT} {sentences} {documents.digest()}".encode())
    state.update(tokenizer_content(tokenizer) + np.packbits(excluded).tobytes())
    path = cache_dir() / "tokens" / f"documents-{state.hexdigest()}.arrow"
    with contextlib.suppress(OSError, pa.ArrowInvalid):
        return DocumentTokens.read(path)
    count = len(excluded) - int(excluded.sum())
    log.info("%s: tokenizing %s documents", documents.where, f"{count:,}")
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, _SCHEMA) as writer,
    ):
        for batch in _batched(zip(documents, excluded, strict=True)):
            writer.write_batch(_encode(batch, tokenizer, sentences=sentences))
    return DocumentTokens.read(path)


def _batched(documents: Iterable[tuple[Document, bool]]) -> Iterator[list[str]]:
    """Yield the texts in batches; a document that is left out is an empty text."""
    batch: list[str] = []
    size = 0
    for document, left_out in documents:
        batch.append("" if left_out else document.text)
        size += len(batch[-1])
        if len(batch) == _DOCUMENTS or size >= _CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, *, sentences: bool
) -> pa.RecordBatch:
    pieces = [split_sentences(text) if sentences else [text] for text in texts]
    flat = [piece for document in pieces for piece in document]
    encoded: list[list[int]] = []
    if flat:  # all of a batch may be left out, and a tokenizer refuses an empty list
        encoded = tokenizer(
            flat, add_special_tokens=False, truncation=False, padding=False, verbose=False
        )["input_ids"]
    ids: list[list[int]] = []
    starts: list[list[int]] = []
    position = 0
    for document in pieces:
        parts = [part for part in encoded[position : position + len(document)] if part]
        position += len(document)
        ids.append([token for part in parts for token in part])
        ends = np.cumsum([0, *map(len, parts)])
        starts.append(ends[:-1].tolist())
    return pa.record_batch(
        [pa.array(ids, pa.list_(pa.int32())), pa.array(starts, pa.list_(pa.int32()))],
        schema=_SCHEMA,
    )
