"""Hidden states of a frozen prefix for batches of tokenized rows: read, or computed and kept."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from lightning_transfer.callbacks.activation_cache.activation_store import ActivationStore
from lightning_transfer.callbacks.activation_cache.frozen_prefix import Prefix
from lightning_transfer.callbacks.activation_cache.store_folder import StoreFolder

_FORMAT = 1  # of the files and of the way states are computed; raise it when either changes
# Of a model's config: where it came from, not what it computes.
_ASIDE = ("architectures", "dtype", "torch_dtype", "transformers_version")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@runtime_checkable
class SupportsPartialForward(Protocol):
    """A backbone that can stop at a depth, and go on from one."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Modules from the input up; the first holds the embeddings."""
        ...

    @property
    def replay_size(self) -> int:
        """Width of the outputs of the depths up to ``replayable``."""
        ...

    @property
    def replayable(self) -> int:
        """The highest depth that ``forward`` can go on from."""
        ...

    def outputs_of(self, depths: Sequence[int], *inputs: Any, **more: Any) -> dict[int, Tensor]:
        """Return the outputs of these depths; nothing above the highest runs."""
        ...


@runtime_checkable
class TokenRows(Protocol):
    """Token sequences of a whole data set."""

    starts: np.ndarray
    fingerprint: str

    def row(self, position: int) -> dict[str, np.ndarray]:
        """Return ``input_ids`` and more of one row, each ``(seq,)``, without padding."""
        ...


class PrefixOutputs:
    """Gives the output of a frozen prefix for a batch, and computes no row of it twice.

    What is missing is computed for the batch at hand, from the nearest depth below that is stored,
    and written. A store's key hashes the weights of the prefix, the tokens, the depth, the dtype
    and ``context``, so that whoever has the same work to do finds it done.

    Args:
        backbone: Its layers below the depths asked for are frozen.
        table: The tokens that ``row`` of the batches counts in.
        shelf: Where the stores lie.
        dtype: Of the states on disk; None: as they are computed.
        first_token: Whether of the highest depth the first token alone is wanted.
        context: What else the states depend on, such as the precision.
    """

    def __init__(
        self,
        backbone: SupportsPartialForward,
        table: TokenRows,
        shelf: StoreFolder,
        *,
        dtype: torch.dtype | None = None,
        first_token: bool = False,
        context: str = "",
    ) -> None:
        """See the class."""
        self._backbone = backbone
        self._table = table
        self.shelf = shelf
        self._dtype = dtype
        self._first_token = first_token
        self._context = context
        self.prefix = Prefix(backbone.layers)
        self.top = backbone.replayable  # kept, since it is asked for with each batch
        self._stores: dict[int, ActivationStore] = {}
        self._keys: dict[int, str] = {}
        self._versions: tuple[int, ...] = ()
        self._wanted: set[int] = set()  # depths whose output is asked for, now or later
        self._seen = np.zeros(len(table.starts) - 1, dtype=bool)  # rows compared with the table
        self.full: str | None = None  # why nothing more is kept

    def stored(self) -> int | None:
        """Return the highest depth of which there is a store already, None if there is none."""
        keys = self._key_of_each(self.top)
        return max((d for d in range(1, self.top + 1) if self.shelf.holds(keys[d])), default=None)

    def states(
        self, batch: Mapping[str, Tensor], depth: int, *, ahead: Sequence[int] = ()
    ) -> Tensor:
        """Return the output of ``depth`` for a batch.

        Args:
            batch: ``row``, int64 (batch,), beside ``input_ids``, ``attention_mask`` and, where
                there are any, ``token_type_ids``.
            depth: At least 1; the layers up to there are frozen.
            ahead: Lower depths whose output will be asked for later: they are stored in passing.

        Returns:
            Float (batch, seq, hidden) on the batch's device, without a gradient; (batch, 1,
            hidden) of the highest depth if no more is wanted of it.

        Raises:
            ValueError: If a row of the batch has not the tokens that the table says.
        """
        self._settle([depth, *ahead])
        rows = batch["row"].cpu().numpy()
        self._compare(batch, rows)
        store = self._stores[depth]
        there = store.holds(rows)  # (batch,)
        width = 1 if self._is_short(depth) else batch["input_ids"].shape[1]
        states = store.read(rows, width)  # (batch, width, hidden)
        device = batch["input_ids"].device
        if there.all():
            return states.to(device)
        missing = np.flatnonzero(~there)
        computed = self._compute(_rows_of(batch, missing), rows[missing], [depth, *ahead])
        states[missing, : computed.shape[1]] = computed.to(states)
        return states.to(device)

    @torch.inference_mode()
    def _compute(self, batch: Mapping[str, Tensor], rows: np.ndarray, depths: list[int]) -> Tensor:
        """Compute the states of rows at depths, keep them, and return those of the first depth."""
        wanted = [d for d in depths if d == depths[0] or not self._stores[d].holds(rows).all()]
        below = [d for d in self._stores if d < min(wanted) and self._stores[d].holds(rows).all()]
        start: dict[str, Any] = {}
        if below:
            known = self._stores[max(below)].read(rows, batch["input_ids"].shape[1])
            start = {"from_depth": max(below), "hidden": known.to(batch["input_ids"].device)}
        if "token_type_ids" in batch:
            start["token_type_ids"] = batch["token_type_ids"]
        ids, mask = batch["input_ids"], batch["attention_mask"]
        start["first_token"] = self._is_short(max(wanted))
        found = self._backbone.outputs_of(sorted(wanted), ids, mask, **start)
        for depth in wanted:
            self._keep(self._stores[depth], rows, found[depth])
        return found[depths[0]]

    def _keep(self, store: ActivationStore, rows: np.ndarray, states: Tensor) -> None:
        if self.full is not None:
            return
        try:
            if self._has_room(store.size(rows)):
                store.write(rows, states)
            else:
                self.full = f"the limit is {self.shelf.limit / 1e9:.1f} GB"
        except OSError as error:
            self.full = str(error)

    def _has_room(self, size: int) -> bool:
        """Make room for that many bytes, if need be in place of stores that only spare work."""
        if self.shelf.make_room(size):
            return True
        aside = set(self._stores) - self._wanted
        for depth in aside:
            self._stores.pop(depth).close()
        return bool(aside) and self.shelf.make_room(size)

    def count(self, depth: int) -> int:
        """Return how many rows are stored of a depth that was asked for."""
        return self._stores[depth].count()

    def close(self) -> None:
        """Let others evict the stores."""
        for store in self._stores.values():
            store.close()
        self._stores = {}

    def _settle(self, depths: Sequence[int]) -> None:
        """Open the stores of these depths, and of lower ones where they are; drop stale ones."""
        self._wanted = set(depths)
        top = max([*depths, *self._stores])
        versions = self.prefix.versions(top)
        if versions == self._versions and all(depth in self._stores for depth in depths):
            return
        self._versions = versions
        keys = self._key_of_each(top)
        for depth in [d for d in self._stores if keys[d] != self._keys[d]]:
            self._stores.pop(depth).close()
        useful = [d for d in range(1, max(depths)) if self.shelf.holds(keys[d])]
        for depth in {*depths, *useful} - set(self._stores):
            self._stores[depth] = self._open(keys[depth], depth)
        self._keys = keys

    def _is_short(self, depth: int) -> bool:
        """Whether a row has one position at this depth."""
        return self._first_token and depth == self.top

    def _open(self, key: str, depth: int) -> ActivationStore:
        rows = len(self._table.starts) - 1
        return self.shelf.open(
            key,
            np.arange(rows + 1) if self._is_short(depth) else self._table.starts,
            hidden_size=self._backbone.replay_size,
            dtype=self._dtype_of(depth),
            about={"depth": depth, "tokens": self._table.fingerprint, "context": self._context},
        )

    def _dtype_of(self, depth: int) -> torch.dtype:
        weights = self._backbone.layers[depth].parameters()
        return self._dtype or next((p.dtype for p in weights), torch.float32)

    def _key_of_each(self, top: int) -> dict[int, str]:
        """Return the keys of the stores of all depths up to ``top``."""
        about = [_FORMAT, self._table.fingerprint, self._context, transformers.__version__]
        about.append(_settings(self._backbone))
        keys = {}
        for depth, weights in enumerate(self.prefix.fingerprints(top)):
            parts = [depth, weights, str(self._dtype_of(depth)), self._is_short(depth)]
            content = json.dumps([*about, *parts])
            keys[depth] = hashlib.sha256(content.encode()).hexdigest()[:40]
        return keys

    def _compare(self, batch: Mapping[str, Tensor], rows: np.ndarray) -> None:
        """Raise unless the rows have the tokens of the table, once for each row."""
        new = np.flatnonzero(~self._seen[rows])
        if not len(new):
            return
        ids, lengths = batch["input_ids"].cpu().numpy(), batch["attention_mask"].sum(dim=1).tolist()
        for place in new:
            stated = self._table.row(int(rows[place]))["input_ids"]
            if not np.array_equal(ids[place, : lengths[place]], stated):
                raise ValueError(
                    f"row {rows[place]} of a batch has not the tokens of that row in the "
                    "DataModule's token_table; give batches of that table, or no `row`"
                )
        self._seen[rows] = True


def _settings(backbone: object) -> str:
    """Return what a model's config says of its computation, such as the number of heads."""
    config = getattr(backbone, "config", None)
    values = config.to_dict() if isinstance(config, transformers.PretrainedConfig) else {}
    said = {name: value for name, value in values.items() if name[0] != "_" and name not in _ASIDE}
    return json.dumps(said, sort_keys=True, default=str)


def _rows_of(batch: Mapping[str, Tensor], places: np.ndarray) -> dict[str, Tensor]:
    """Return some rows of a batch, without the padding that none of them needs."""
    chosen = torch.from_numpy(places).to(batch["input_ids"].device)
    width = int(batch["attention_mask"][chosen].sum(dim=1).max())
    return {name: batch[name][chosen, :width] for name in _INPUTS if name in batch}
