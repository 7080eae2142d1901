"""Prefix outputs: hidden states of a frozen prefix, read from stores or computed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from lightning_transfer.callbacks.activation_cache.activation_store import ActivationStore
from lightning_transfer.callbacks.activation_cache.frozen_prefix import FrozenPrefix
from lightning_transfer.callbacks.activation_cache.store_folder import StoreFolder

# Version of the files and of the computation of the states; increase it if either changes.
_FORMAT = 1
# Keys of a model's config that describe its origin and do not change its output.
_IGNORED_CONFIG_KEYS = ("architectures", "dtype", "torch_dtype", "transformers_version")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@runtime_checkable
class SupportsPartialForward(Protocol):
    """A backbone that can run a part of its layers."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Layers from the input up; the first contains the embeddings."""
        ...

    @property
    def partial_hidden_size(self) -> int:
        """Width of the outputs of the depths up to ``max_partial_depth``."""
        ...

    @property
    def max_partial_depth(self) -> int:
        """Highest depth from which ``forward`` can continue."""
        ...

    def hidden_states_at(
        self, depths: Sequence[int], *inputs: Any, **more: Any
    ) -> dict[int, Tensor]:
        """Return the outputs of these depths; the layers above them do not run."""
        ...


@runtime_checkable
class TokenRows(Protocol):
    """Tokens of the rows of a dataset."""

    starts: np.ndarray
    fingerprint: str

    def row(self, position: int) -> dict[str, np.ndarray]:
        """Return ``input_ids`` and other inputs of a row, each ``(seq,)``, without padding."""
        ...


class PrefixOutputs:
    """Outputs of the frozen prefix of a backbone, computed once for each row.

    Rows not stored yet are computed, from the nearest stored depth below, and stored. The key of a
    store is a hash of the weights of the prefix, the tokens, the depth, the dtype and ``context``.
    Any run with the same prefix and tokens uses the same store.

    Args:
        backbone: Backbone with frozen layers up to each requested depth.
        table: Token table; ``row`` in a batch is a position in it.
        store_folder: Folder of the stores.
        dtype: Dtype of the states on disk; None: the dtype of the computation.
        first_token: True to store the first token only at the highest depth.
        context: Other conditions of the computation, such as the precision; part of the key.
    """

    def __init__(
        self,
        backbone: SupportsPartialForward,
        table: TokenRows,
        store_folder: StoreFolder,
        *,
        dtype: torch.dtype | None = None,
        first_token: bool = False,
        context: str = "",
    ) -> None:
        """See the class."""
        self._backbone = backbone
        self._table = table
        self.store_folder = store_folder
        self._dtype = dtype
        self._first_token = first_token
        self._context = context
        self.prefix = FrozenPrefix(backbone.layers)
        self.top = backbone.max_partial_depth  # looked up once; it is needed in each batch
        self._stores: dict[int, ActivationStore] = {}
        self._keys: dict[int, str] = {}
        self._versions: tuple[int, ...] = ()
        self._required: set[int] = set()  # depths requested now or in a later phase
        self._checked_rows = np.zeros(len(table.starts) - 1, dtype=bool)  # compared with the table
        self.full_reason: str | None = None  # set once no more rows can be stored

    def highest_stored_depth(self) -> int | None:
        """Return the highest depth with an existing store, or None."""
        keys = self._keys_up_to(self.top)
        found = (d for d in range(1, self.top + 1) if self.store_folder.holds(keys[d]))
        return max(found, default=None)

    def states(
        self, batch: Mapping[str, Tensor], depth: int, *, ahead: Sequence[int] = ()
    ) -> Tensor:
        """Return the output of ``depth`` for a batch.

        Args:
            batch: ``row``, int64 ``(batch,)``; ``input_ids`` and ``attention_mask``, int64
                ``(batch, seq)``; optionally ``token_type_ids``.
            depth: Depth >= 1 with frozen layers up to it.
            ahead: Lower depths for later phases. Their outputs are stored in the same pass.

        Returns:
            Float ``(batch, seq, hidden)`` on the batch's device, without a gradient. With
            ``first_token``, the highest depth gives ``(batch, 1, hidden)``.

        Raises:
            ValueError: If the tokens of a row differ from those of the token table.
            OSError: If the folder of the stores is not writable.
        """
        self._open_stores([depth, *ahead])
        rows = batch["row"].cpu().numpy()
        self._check_tokens(batch, rows)
        store = self._stores[depth]
        stored = store.holds(rows)  # (batch,)
        width = 1 if self._is_first_token_only(depth) else batch["input_ids"].shape[1]
        states = store.read(rows, width)  # (batch, width, hidden)
        device = batch["input_ids"].device
        if stored.all():
            return states.to(device)
        missing = np.flatnonzero(~stored)
        computed = self._compute(_select_rows(batch, missing), rows[missing], [depth, *ahead])
        states[missing, : computed.shape[1]] = computed.to(states)
        return states.to(device)

    @torch.inference_mode()
    def _compute(self, batch: Mapping[str, Tensor], rows: np.ndarray, depths: list[int]) -> Tensor:
        """Compute and store the states of rows at these depths; return those of the first depth."""
        needed = [d for d in depths if d == depths[0] or not self._stores[d].holds(rows).all()]
        below = [d for d in self._stores if d < min(needed) and self._stores[d].holds(rows).all()]
        start: dict[str, Any] = {}
        if below:
            known = self._stores[max(below)].read(rows, batch["input_ids"].shape[1])
            start = {"from_depth": max(below), "hidden": known.to(batch["input_ids"].device)}
        if "token_type_ids" in batch:
            start["token_type_ids"] = batch["token_type_ids"]
        ids, mask = batch["input_ids"], batch["attention_mask"]
        start["first_token"] = self._is_first_token_only(max(needed))
        found = self._backbone.hidden_states_at(sorted(needed), ids, mask, **start)
        for depth in needed:
            self._store(self._stores[depth], rows, found[depth])
        return found[depths[0]]

    def _store(self, store: ActivationStore, rows: np.ndarray, states: Tensor) -> None:
        if self.full_reason is not None:
            return
        try:
            if self._make_space(store.size(rows)):
                store.write(rows, states)
            else:
                self.full_reason = f"the limit is {self.store_folder.limit / 1e9:.1f} GB"
        except OSError as error:  # a full disk ends the storing, not the training
            self.full_reason = str(error)

    def _make_space(self, size: int) -> bool:
        """Make space for ``size`` bytes; return True if they fit."""
        if self.store_folder.make_space(size):
            return True
        # Open stores are not evicted. Those of lower depths only shorten the computation of
        # missing rows, so they may go.
        optional = set(self._stores) - self._required
        for depth in optional:
            self._stores.pop(depth).close()
        return bool(optional) and self.store_folder.make_space(size)

    def count(self, depth: int) -> int:
        """Return the number of stored rows of a requested depth."""
        return self._stores[depth].count()

    def close(self) -> None:
        """Close the stores, so that they may be evicted."""
        for store in self._stores.values():
            store.close()
        self._stores = {}

    def _open_stores(self, depths: Sequence[int]) -> None:
        """Open the stores of these depths and existing ones below; close outdated ones."""
        self._required = set(depths)
        top = max([*depths, *self._stores])
        versions = self.prefix.versions(top)
        if versions == self._versions and all(depth in self._stores for depth in depths):
            return
        # Only after a change of weights or depths: hashing all weights takes long.
        self._versions = versions
        keys = self._keys_up_to(top)
        for depth in [d for d in self._stores if keys[d] != self._keys[d]]:
            self._stores.pop(depth).close()
        existing = [d for d in range(1, max(depths)) if self.store_folder.holds(keys[d])]
        for depth in {*depths, *existing} - set(self._stores):
            self._stores[depth] = self._open(keys[depth], depth)
        self._keys = keys

    def _is_first_token_only(self, depth: int) -> bool:
        """Return True if the store of this depth has one position per row."""
        return self._first_token and depth == self.top

    def _open(self, key: str, depth: int) -> ActivationStore:
        rows = len(self._table.starts) - 1
        return self.store_folder.open(
            key,
            np.arange(rows + 1) if self._is_first_token_only(depth) else self._table.starts,
            hidden_size=self._backbone.partial_hidden_size,
            dtype=self._dtype_of(depth),
            about={"depth": depth, "tokens": self._table.fingerprint, "context": self._context},
        )

    def _dtype_of(self, depth: int) -> torch.dtype:
        weights = self._backbone.layers[depth].parameters()
        return self._dtype or next((p.dtype for p in weights), torch.float32)

    def _keys_up_to(self, top: int) -> dict[int, str]:
        """Return the keys of the stores of all depths up to ``top``."""
        # The order of the parts is that of existing stores; a change makes them useless.
        about = [_FORMAT, self._table.fingerprint, self._context, transformers.__version__]
        about.append(_config_text(self._backbone))
        keys = {}
        for depth, weights in enumerate(self.prefix.fingerprints(top)):
            parts = [depth, weights, str(self._dtype_of(depth)), self._is_first_token_only(depth)]
            content = json.dumps([*about, *parts])
            keys[depth] = hashlib.sha256(content.encode()).hexdigest()[:40]
        return keys

    def _check_tokens(self, batch: Mapping[str, Tensor], rows: np.ndarray) -> None:
        """Raise if the tokens of a row differ from the table; each row is checked once."""
        # With a wrong `row` the model would train on the states of another text, without any error.
        new = np.flatnonzero(~self._checked_rows[rows])
        if not len(new):
            return
        ids, lengths = batch["input_ids"].cpu().numpy(), batch["attention_mask"].sum(dim=1).tolist()
        for index in new:
            expected = self._table.row(int(rows[index]))["input_ids"]
            if not np.array_equal(ids[index, : lengths[index]], expected):
                raise ValueError(
                    f"the tokens of row {rows[index]} in a batch differ from those in the "
                    "DataModule's token_table; build the batches from that table, or remove `row` "
                    "from them"
                )
        self._checked_rows[rows] = True


def _config_text(backbone: object) -> str:
    """Return the settings of a model's config, such as the number of heads, as JSON."""
    # Models of equal weights may still compute something else.
    config = getattr(backbone, "config", None)
    values = config.to_dict() if isinstance(config, transformers.PretrainedConfig) else {}
    settings = {
        name: value
        for name, value in values.items()
        if name[0] != "_" and name not in _IGNORED_CONFIG_KEYS
    }
    return json.dumps(settings, sort_keys=True, default=str)


def _select_rows(batch: Mapping[str, Tensor], indices: np.ndarray) -> dict[str, Tensor]:
    """Return some rows of a batch, padded to the longest of them."""
    chosen = torch.from_numpy(indices).to(batch["input_ids"].device)
    width = int(batch["attention_mask"][chosen].sum(dim=1).max())
    return {name: batch[name][chosen, :width] for name in _INPUTS if name in batch}
