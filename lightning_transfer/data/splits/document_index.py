"""Which documents there are, and which split each lies in: a few bytes a document."""

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

_FORMAT = 1  # of the cached file and of what makes a key; raise it when either changes


class DocumentIndex:
    """Keys of the documents, by which they are split; the texts themselves are not kept.

    Documents are ordered by a hash of (seed, group), so that no group lies in two splits and a
    document stays where it is when others come or go. A repeated text is kept once.

    Args:
        keys: Of each document's text, uint64 ``(documents,)``.
        groups: Of each document's group, uint64 ``(documents,)``.
        excluded: Whether it holds text that must stay unseen, bool ``(documents,)``.
    """

    def __init__(self, keys: np.ndarray, groups: np.ndarray, excluded: np.ndarray) -> None:
        """See the class."""
        self.keys = keys
        self.groups = groups
        self.excluded = excluded

    def __len__(self) -> int:
        """Return the number of documents, those left out included."""
        return len(self.keys)

    def split(self, splits: Splits) -> Mapping[str, np.ndarray]:
        """Return the documents of each split, int64, in drawing order.

        Raises:
            ValueError: If more documents are to be held back than there are.
        """
        _, first = np.unique(self.keys, return_index=True)
        kept = np.zeros(len(self), dtype=bool)
        kept[first] = True
        documents = np.flatnonzero(kept & ~self.excluded)
        places = _mixed(self.groups[documents], splits.seed)
        order = np.argsort(places, kind="stable")
        documents, places = documents[order], places[order]
        ends = [0]
        for name, size in (("test", splits.test), ("val", splits.val)):
            wanted = ends[-1] + count_of(size, len(documents))
            if wanted > len(documents):
                raise ValueError(
                    f"splits.{name}={size} asks for {wanted - ends[-1]} documents, there are "
                    f"{len(documents) - ends[-1]} to draw from"
                )
            if ends[-1] < wanted < len(documents):  # the whole group
                wanted = int(np.searchsorted(places, places[wanted - 1], side="right"))
            ends.append(wanted)
        test, validation, train = np.split(documents, ends[1:])
        return {"train": train, "validation": validation, "test": test}

    def draw(self, documents: np.ndarray, size: int, *, seed: int) -> np.ndarray:
        """Return ``size`` of the documents, drawn by ``seed``, in the order given."""
        ranks = np.argsort(_mixed(self.keys[documents], seed + 1), kind="stable")
        return documents[np.sort(ranks[:size])]


def cached_index(documents: Documents, *, exclude: Mapping[str, Documents]) -> DocumentIndex:
    """Return the index of a source, from the cache if it was made before.

    Args:
        documents: The source; gone through once, one document at a time.
        exclude: Sources whose texts must not occur in the documents (see :class:`Overlap`).

    Raises:
        ValueError: If there is no document.
    """
    sources = [documents, *exclude.values()]
    digests = f"{_FORMAT} {' '.join(source.digest() for source in sources)}"
    name = hashlib.sha256(digests.encode()).hexdigest()
    path = cache_dir() / "documents" / f"{name}.arrow"
    try:
        return _read(path)
    except (OSError, pa.ArrowInvalid):
        index = _scan(documents, exclude)
    try:
        _write(index, path)
    except OSError as error:  # a full or read-only disk costs time, not the run
        log.warning("the index of %s is not cached in %s: %s", documents.where, path.parent, error)
    return index


def _scan(documents: Documents, exclude: Mapping[str, Documents]) -> DocumentIndex:
    unseen = [document.text for source in exclude.values() for document in source]
    overlap = Overlap(unseen) if unseen else None
    keys, groups, excluded = array("Q"), array("Q"), bytearray()
    for document in documents:
        keys.append(document.key)
        groups.append(document.group_key)
        excluded.append(overlap is not None and overlap.holds(document.text))
    if not keys:
        raise ValueError(f"{documents.where} has no documents")
    if overlap is not None:
        rank_zero_only(log.info)(
            "%s: left out %d of %d documents that hold text of %s",
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


def _mixed(values: np.ndarray, seed: int) -> np.ndarray:
    """Return a hash of (seed, value), uint64: the finalizer of SplitMix64, the same everywhere."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * seed + 1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))
