"""Token ids of documents in a memory-mapped Arrow file, written in batches."""

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

_FORMAT = 1  # version of the cached file and of sentence splitting; raise it if either changes
_DOCUMENTS, _CHARS = 512, 1 << 22  # largest batch: bounds the memory
_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("sentences", pa.list_(pa.int32()))])
_Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class DocumentTokens:
    """Token ids of documents, without special tokens, and the beginnings of their sentences.

    The arrays are on disk. Memory holds the parts in use and a few bytes per document.

    Args:
        batches: Four arrays of each record batch: concatenated ids of its documents, int32
            ``(tokens,)``; start of each document, int32 ``(documents + 1,)``; concatenated
            beginnings of sentences, int32 ``(sentences,)``; start of each document in them, int32
            ``(documents + 1,)``.
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
        """Return the token ids of a document, int32 ``(tokens,)``."""
        batch, row = self._locate(document)
        ids, starts, _, _ = self._batches[batch]
        return ids[starts[row] : starts[row + 1]]

    def sentences(self, document: int) -> np.ndarray:
        """Return the first token of each sentence of a document, int32 ``(sentences,)``."""
        batch, row = self._locate(document)
        _, _, sentences, starts = self._batches[batch]
        return sentences[starts[row] : starts[row + 1]]

    def counts(self, documents: np.ndarray, size: int) -> np.ndarray:
        """Count the occurrences of each token id.

        Args:
            documents: Documents to count, int64 ``(documents,)``.
            size: Size of the vocabulary.

        Returns:
            Number of occurrences of each id, int64 ``(size,)``.
        """
        total = np.zeros(size, dtype=np.int64)
        # In parts: the tokens of all documents may be larger than memory.
        for start in range(0, len(documents), _DOCUMENTS):
            some = [self.ids(int(document)) for document in documents[start : start + _DOCUMENTS]]
            total += np.bincount(np.concatenate(some), minlength=size)
        return total

    def _locate(self, document: int) -> tuple[int, int]:
        """Return the record batch of a document, and its row there."""
        batch = int(np.searchsorted(self._first, document, side="right")) - 1
        return batch, int(document - self._first[batch])

    @classmethod
    def read(cls, path: Path) -> "DocumentTokens":
        """Map a cached file into memory.

        Raises:
            OSError: If the file does not exist.
            pyarrow.ArrowInvalid: If the file does not contain tokens of documents.
        """
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema != _SCHEMA:
            raise pa.ArrowInvalid(f"{path} does not contain tokens of documents")
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
    """Return the tokens of a source of documents, from the cache if possible.

    Args:
        documents: The source. It is read once, and never held in memory.
        excluded: Documents to leave without tokens, bool ``(documents,)``.
        tokenizer: Any Hugging Face tokenizer.
        sentences: True to store the beginnings of sentences. Each sentence is then tokenized
            separately.

    Raises:
        OSError: If the cache cannot be written.
    """
    state = hashlib.sha256(f"{_FORMAT} {sentences} {documents.digest()}".encode())
    state.update(tokenizer_content(tokenizer) + np.packbits(excluded).tobytes())
    path = cache_dir() / "tokens" / f"documents-{state.hexdigest()}.arrow"
    with contextlib.suppress(OSError, pa.ArrowInvalid):  # not cached yet, or a damaged file
        return DocumentTokens.read(path)
    count = len(excluded) - int(excluded.sum())
    log.info("%s: tokenizing %s documents", documents.where, f"{count:,}")
    # Errors of the disk are not caught, in contrast to the cache of labelled texts: without the
    # file, the tokens would have to fit into memory.
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, _SCHEMA) as writer,
    ):
        for batch in _batched(zip(documents, excluded, strict=True)):
            writer.write_batch(_encode(batch, tokenizer, sentences=sentences))
    return DocumentTokens.read(path)


def _batched(documents: Iterable[tuple[Document, bool]]) -> Iterator[list[str]]:
    """Yield the texts in batches, with an empty text for each excluded document."""
    batch: list[str] = []
    size = 0
    for document, is_excluded in documents:
        # An empty text and not a gap: rows of the file are numbered like the documents.
        batch.append("" if is_excluded else document.text)
        size += len(batch[-1])
        if len(batch) == _DOCUMENTS or size >= _CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, *, sentences: bool
) -> pa.RecordBatch:
    """Tokenize a batch of documents."""
    pieces = [split_sentences(text) if sentences else [text] for text in texts]
    flat = [piece for document in pieces for piece in document]
    encoded: list[list[int]] = []
    if flat:  # all documents of a batch may be excluded, and a tokenizer rejects an empty list
        encoded = tokenizer(
            flat, add_special_tokens=False, truncation=False, padding=False, verbose=False
        )["input_ids"]
    ids: list[list[int]] = []
    starts: list[list[int]] = []
    position = 0
    for document in pieces:
        # A sentence without any token would give two sentences the same beginning.
        parts = [part for part in encoded[position : position + len(document)] if part]
        position += len(document)
        ids.append([token for part in parts for token in part])
        ends = np.cumsum([0, *map(len, parts)])
        starts.append(ends[:-1].tolist())
    return pa.record_batch(
        [pa.array(ids, pa.list_(pa.int32())), pa.array(starts, pa.list_(pa.int32()))],
        schema=_SCHEMA,
    )
