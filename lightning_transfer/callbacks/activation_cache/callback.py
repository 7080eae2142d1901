"""Frozen layers run once for each row: later epochs, and later runs, read what came out."""

import logging
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from torch import nn

from lightning_transfer.assets import cache_dir
from lightning_transfer.callbacks.activation_cache import PrefixOutputs, StoreFolder
from lightning_transfer.callbacks.activation_cache.prefix_outputs import (
    SupportsPartialForward,
    TokenRows,
)
from lightning_transfer.callbacks.gradual_unfreezing import GradualUnfreezing
from lightning_transfer.callbacks.trainable_set import Freezer

log = logging.getLogger(__name__)

_DTYPES = ("float32", "bfloat16", "float16")
_HIDDEN, _DEPTH = "hidden", "from_depth"


@runtime_checkable
class HasTokens(Protocol):
    """A DataModule whose batches say which row of a token table each row is."""

    @property
    def token_table(self) -> TokenRows:
        """The table that ``row`` in the batches counts in."""
        ...


class ActivationCache(Callback):
    """Compute the output of frozen layers once for each row, and train on what was stored.

    Before each batch it looks how many of the lowest layers are frozen and in eval mode, whoever
    froze them. Their output for the rows of the batch is put into the batch as ``hidden`` with the
    depth that it belongs to as ``from_depth``, and a :class:`tasks.TransferModule` runs only the
    layers above. Losses are those of a run without it, to the rounding of float32. It follows
    gradual unfreezing: when the boundary moves down, :class:`GradualUnfreezing` has told it so
    ahead, and the output of the lower depth was stored in the same pass; when it moves up, the
    stored output is where the pass goes on from. Validation rows are stored too.

    Where the head reads the first token of each text alone, no more of the top layer's output is
    computed and stored. The stores lie in a folder below the cache and are found again by a hash of
    the frozen weights and the tokens: a head sweep, a repeat with another seed or a resumed run
    computes nothing that an earlier one has. ``trainer.test`` and ``validate`` use what is there
    and make no new store.
    Works on a single device and under DDP, for an encoder and for the encoder of an
    encoder-decoder.

    It needs a backbone with ``outputs_of``, ``replayable`` and ``replay_size`` (such as
    :class:`Backbone`) and a DataModule with ``token_table``; without them, or if the disk is full,
    one line says why, and training goes on without it. A ``LightningModule`` of your own passes
    ``hidden`` and ``from_depth`` on to the backbone where the batch has them. Put it behind
    callbacks that freeze.

    Args:
        limit_gb: Size of all stores together in GB (10^9 bytes), > 0. The store that was opened
            longest ago goes first; 1 GB of the disk is always left free.
        dtype: ``float32``, ``bfloat16`` or ``float16`` on disk; None: as they are computed, which
            is exact. Half the bits need half the room.
        folder: Where the stores lie; None: ``activations`` in the cache folder.
        backbone: Attribute of the LightningModule that is the backbone.

    Raises:
        ValueError: If an argument is out of its range or, at the start of the fit, a callback that
            freezes stands behind this one.
    """

    def __init__(
        self,
        limit_gb: float = 10.0,
        *,
        dtype: str | None = None,
        folder: str | Path | None = None,
        backbone: str = "backbone",
    ) -> None:
        """See the class."""
        super().__init__()
        if not limit_gb > 0:
            raise ValueError(f"limit_gb must be > 0, got {limit_gb}; to do without, leave it out")
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)} or null, got {dtype!r}")
        self.limit_gb = limit_gb
        self.dtype = dtype
        self.folder = folder
        self.backbone = backbone
        self._replayer: PrefixOutputs | None = None
        self._off = False
        self._depth: int | None = None  # of the last batch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the order of the callbacks."""
        self._off, self._depth = False, None
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        for late in callbacks[callbacks.index(self) :]:
            if isinstance(late, BaseFinetuning | Freezer):
                raise ValueError(
                    f"ActivationCache must stand behind {type(late).__name__} in the list of "
                    "callbacks, to see before each batch what that one has frozen"
                )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put the frozen layers' output into the batch."""
        self._serve(trainer, pl_module, batch, training=True)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put the frozen layers' output into the batch."""
        self._serve(trainer, pl_module, batch, training=False)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put it in, where a fit with the same frozen weights has left a store."""
        self._serve(trainer, pl_module, batch, training=False)

    def _serve(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *, training: bool
    ) -> None:
        if self._off:
            return
        replayer = self._replayer or self._make(trainer, pl_module, batch)
        if replayer is None:
            return
        depth = self._find_depth(trainer, replayer, training=training)
        if depth is None:
            return
        ahead = self._ahead(trainer, depth) if trainer.state.fn == "fit" else []
        full = replayer.full
        try:
            with trainer.precision_plugin.forward_context():
                states = replayer.states(batch, depth, ahead=ahead)
        except OSError as error:
            self._leave(trainer, f"its folder {replayer.shelf.folder} cannot be used: {error}")
            return
        batch[_HIDDEN], batch[_DEPTH] = states, depth
        self._tell(trainer, replayer, depth, full)

    def _find_depth(
        self, trainer: Trainer, replayer: PrefixOutputs, *, training: bool
    ) -> int | None:
        """Return the depth whose output is replayed, or None if there is nothing to gain."""
        if trainer.state.fn != "fit":
            if self._depth is None:  # nothing changes in a test: looked up once, -1 for no store
                self._depth = replayer.stored() or -1
            return self._depth if self._depth > 0 else None
        depth = min(replayer.prefix.frozen(training=training) - 1, replayer.top)
        return depth if depth >= 1 else None  # the embeddings alone are cheaper than the store

    def _ahead(self, trainer: Trainer, depth: int) -> list[int]:
        """Return the lower depths that schedules of unfreezing will ask for."""
        found = {
            count - 1
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, GradualUnfreezing)
            for count in callback.frozen_ahead()
        }
        return sorted(other for other in found if 1 <= other < depth)

    def _make(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any
    ) -> PrefixOutputs | None:
        backbone = getattr(pl_module, self.backbone, None)
        parameters = backbone.parameters() if isinstance(backbone, nn.Module) else iter(())
        first = next(parameters, None)
        if trainer.state.fn == "fit" and (first is None or first.requires_grad):
            return None  # nothing is frozen, so nobody misses the store
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(backbone, SupportsPartialForward):
            self._leave(trainer, f"{self.backbone} has no outputs_of, replayable and replay_size")
            return None
        if not isinstance(data, HasTokens):
            self._leave(trainer, "the DataModule has no token_table")
            return None
        if not isinstance(batch, dict) or "row" not in batch:
            self._leave(trainer, "the batches have no `row`")
            return None
        folder = Path(self.folder or cache_dir() / "activations").expanduser()
        context = f"{trainer.precision_plugin.precision} {pl_module.device.type}"
        self._replayer = PrefixOutputs(
            backbone,
            data.token_table,
            StoreFolder(folder, limit=int(self.limit_gb * 1e9)),
            dtype=getattr(torch, self.dtype) if self.dtype else None,
            first_token=bool(getattr(pl_module, "reads_first_token", False)),
            context=context,
        )
        return self._replayer

    def _leave(self, trainer: Trainer, why: str) -> None:
        """Do without the store, and say why where it matters."""
        self._off = True
        if trainer.is_global_zero and trainer.state.fn == "fit":
            log.info("the output of frozen layers is not stored: %s", why)

    def _tell(
        self, trainer: Trainer, replayer: PrefixOutputs, depth: int, full: str | None
    ) -> None:
        if not trainer.is_global_zero:
            return
        if replayer.full and not full:
            log.warning(
                "the output of frozen layers is stored for %s rows and no more: %s; the others are "
                "computed in each epoch (activation_cache.limit_gb=%g)",
                f"{replayer.count(depth):,}",
                replayer.full,
                self.limit_gb,
            )
        if depth != self._depth and trainer.state.fn == "fit":
            self._depth = depth
            log.info(
                "depths 0-%d are frozen: their output is computed once and stored in %s",
                depth,
                replayer.shelf.folder,
            )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let others evict the stores."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let others evict the stores."""
        if self._replayer is not None:
            self._replayer.close()
            self._replayer = None
