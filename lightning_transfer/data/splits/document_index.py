"""Index of documents: the keys by which they are split, at 17 bytes per document."""

import hashlib
import logging
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_transfer.assets import cache_dir
from lightning_transfer.data.readers.documents import Documents
from lightning_transfer.data.splits.overlap import Overlap
from lightning_transfer.data.splits.split_spec import Splits, count_of
from lightning_transfer.utils.atomic_files import atomic_path

log = logging.getLogger(__name__)

_FORMAT = 1  # version of the cached file and of the keys; raise it if either changes


class DocumentIndex:
    """Hashes of the texts and groups of documents, used to split them.

    The index does not store the texts, so they may be larger than memory. Documents are ordered by
    a hash of (seed, group). No group is therefore in two splits, and added or removed documents do
    not reorder the others. Of equal texts, the first one is used.

    Args:
        keys: Hash of the text of each document, uint64 ``(documents,)``.
        groups: Hash of the group of each document, uint64 ``(documents,)``.
        excluded: True for documents with text that must stay unseen, bool ``(documents,)``.
    """

    def __init__(self, keys: np.ndarray, groups: np.ndarray, excluded: np.ndarray) -> None:
        """See the class."""
        self.keys = keys
        self.groups = groups
        self.excluded = excluded

    def __len__(self) -> int:
        """Return the number of documents, including excluded ones and duplicates."""
        return len(self.keys)

    def split(self, splits: Splits) -> Mapping[str, np.ndarray]:
        """Return the documents of each split.

        Args:
            splits: Sizes and seed of the splits. Fractions are of the documents that are neither
                excluded nor duplicates.

        Returns:
            Split name -> positions of the documents in the order of the draw, int64.

        Raises:
            ValueError: If validation and test request more documents than there are.
        """
        _, first = np.unique(self.keys, return_index=True)
        is_first = np.zeros(len(self), dtype=bool)
        is_first[first] = True
        documents = np.flatnonzero(is_first & ~self.excluded)
        hashes = _seeded_hash(self.groups[documents], splits.seed)
        # Stable: documents of one group have equal hashes and keep the order of the source.
        order = np.argsort(hashes, kind="stable")
        documents, hashes = documents[order], hashes[order]
        ends = [0]
        for name, size in (("test", splits.test), ("val", splits.val)):
            wanted = ends[-1] + count_of(size, len(documents))
            if wanted > len(documents):
                left = len(documents) - ends[-1]
                raise ValueError(
                    f"splits.{name}={size} asks for {wanted - ends[-1]} documents, there are "
                    f"{left} to draw from; set data.splits.{name}={left} or less"
                )
            if ends[-1] < wanted < len(documents):
                # Extend the split to the end of its last group: a group is never divided.
                wanted = int(np.searchsorted(hashes, hashes[wanted - 1], side="right"))
            ends.append(wanted)
        test, validation, train = np.split(documents, ends[1:])
        return {"train": train, "validation": validation, "test": test}

    def draw(self, documents: np.ndarray, size: int, *, seed: int) -> np.ndarray:
        """Draw a subset of documents.

        Args:
            documents: Positions to draw from, int64 ``(documents,)``.
            size: Number of documents to draw.
            seed: Seed of the draw. A larger draw with the same seed contains a smaller one.

        Returns:
            Drawn positions in the given order, int64 ``(size,)``.
        """
        # Both seeds are 0 by default. With an equal hash, the subset would follow from the order in
        # which the splits were drawn.
        ranks = np.argsort(_seeded_hash(self.keys[documents], seed + 1), kind="stable")
        return documents[np.sort(ranks[:size])]


def cached_index(documents: Documents, *, exclude: Mapping[str, Documents]) -> DocumentIndex:
    """Return the index of a source of documents, from the cache if possible.

    Args:
        documents: The source. It is read once, one document at a time.
        exclude: Name -> source of texts that must stay unseen. Documents that overlap with one of
            them are excluded (see :class:`Overlap`).

    Raises:
        ValueError: If the source has no documents.
    """
    sources = [documents, *exclude.values()]
    digests = f"{_FORMAT} {' '.join(source.digest() for source in sources)}"
    name = hashlib.sha256(digests.encode()).hexdigest()
    path = cache_dir() / "documents" / f"{name}.arrow"
    try:
        return _read(path)
    except (OSError, pa.ArrowInvalid):  # not cached yet, or a damaged file
        index = _scan(documents, exclude)
    try:
        _write(index, path)
    except OSError as error:  # a full or read-only disk must not stop the run
        log.warning("the index of %s is not cached in %s: %s", documents.where, path.parent, error)
    return index


def _scan(documents: Documents, exclude: Mapping[str, Documents]) -> DocumentIndex:
    # Overlap needs all of these texts at once: they must fit into memory, the documents need not.
    unseen = [document.text for source in exclude.values() for document in source]
    overlap = Overlap(unseen) if unseen else None
    # Typed arrays: a list of Python integers would need several times the memory.
    keys, groups, excluded = array("Q"), array("Q"), bytearray()
    for document in documents:
        keys.append(document.key)
        groups.append(document.group_key)
        excluded.append(overlap is not None and overlap.holds(document.text))
    if not keys:
        raise ValueError(f"{documents.where} has no documents")
    if overlap is not None:
        rank_zero_only(log.info)(
            "%s: excluded %d of %d documents with text of %s",
            documents.where,
            sum(excluded),
            len(keys),
            ", ".join(exclude),
        )
    return DocumentIndex(
        np.array(keys, np.uint64), np.array(groups, np.uint64), np.array(excluded, bool)
    )


def _write(index: DocumentIndex, path: Path) -> None:
    table = pa.table({"key": index.keys, "group": index.groups, "excluded": index.excluded})
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)


def _read(path: Path) -> DocumentIndex:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    columns = [table[name].to_numpy() for name in ("key", "group", "excluded")]
    return DocumentIndex(*columns)


def _seeded_hash(values: np.ndarray, seed: int) -> np.ndarray:
    """Return a hash of (seed, value) by the finalizer of SplitMix64, uint64 ``(values,)``.

    The result is the same on every platform and in every version of NumPy.
    """
    with np.errstate(over="ignore"):  # overflow is intended: the arithmetic is modulo 2**64
        mixed = values + np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * seed + 1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))
