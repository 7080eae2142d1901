"""Activation cache: run frozen layers once per row, and read their stored outputs later."""

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
    """A DataModule with a token table, and with ``row`` in its batches."""

    @property
    def token_table(self) -> TokenRows:
        """Token table; ``row`` in a batch is a position in it."""
        ...


class ActivationCache(Callback):
    """Compute the output of frozen layers once per row, and train on the stored output.

    Before each batch, the callback counts the lowest layers that are frozen and in eval mode. It
    adds their output to the batch as ``hidden`` and its depth as ``from_depth``; a
    :class:`tasks.TransferModule` then runs only the layers above (partial forward). Losses equal
    those of a run without the callback, up to the rounding of float32. Validation rows are stored
    too.

    The callback follows :class:`GradualUnfreezing`. If a later phase freezes fewer layers, the
    output of the lower depth is stored in the same pass. If it freezes more, the stored output is
    the start of the next pass. If the head uses only the first token of each text, only that
    token's output of the top layer is computed and stored.

    The key of a store is a hash of the frozen weights and the tokens. The jobs of a sweep over
    heads, runs with another seed and resumed runs therefore share stores. ``trainer.test`` and
    ``trainer.validate`` read existing stores, and create none.

    It works on a single device and under DDP, for encoders and for the encoder of an
    encoder-decoder. The backbone needs ``hidden_states_at``, ``max_partial_depth`` and
    ``partial_hidden_size`` (such as :class:`Backbone`), the DataModule ``token_table``. Your own
    ``LightningModule`` has to pass ``hidden`` and ``from_depth`` of a batch to the backbone. If a
    requirement is not met, or the disk is full, the reason is logged and the training continues
    without new stored outputs.

    Args:
        limit_gb: Total size of all stores in GB (10^9 bytes), > 0. The least recently opened store
            is evicted first; 1 GiB of the disk always stays free.
        dtype: Dtype on disk: ``float32``, ``bfloat16`` or ``float16``; None: the dtype of the
            computation, which is exact. 16 bits need half the disk space.
        folder: Folder of the stores; None: ``activations`` in the cache folder.
        backbone: Attribute of the LightningModule with the backbone.

    Raises:
        ValueError: If an argument is out of range. At the start of the fit: if a callback that
            freezes comes after this one. During the run: if the tokens of a row differ from those
            in the token table.
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
            raise ValueError(
                f"limit_gb must be > 0, got {limit_gb}; set activation_cache=null for no cache"
            )
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, null, got {dtype!r}")
        self.limit_gb = limit_gb
        self.dtype = dtype
        self.folder = folder
        self.backbone = backbone
        self._outputs: PrefixOutputs | None = None
        self._disabled = False
        self._depth: int | None = None  # of the last batch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the order of the callbacks."""
        self._disabled, self._depth = False, None
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        for late in callbacks[callbacks.index(self) :]:
            if isinstance(late, BaseFinetuning | Freezer):
                raise ValueError(
                    f"ActivationCache must come after {type(late).__name__} in the list of "
                    "callbacks, because it counts the frozen layers before each batch"
                )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add the output of the frozen layers to the batch."""
        self._add_states(trainer, pl_module, batch, training=True)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the output of the frozen layers to the batch."""
        self._add_states(trainer, pl_module, batch, training=False)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the output to the batch, if a fit with the same frozen weights has left a store."""
        self._add_states(trainer, pl_module, batch, training=False)

    def _add_states(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *, training: bool
    ) -> None:
        if self._disabled:
            return
        outputs = self._outputs or self._build_outputs(trainer, pl_module, batch)
        if outputs is None:
            return
        depth = self._find_depth(trainer, outputs, training=training)
        if depth is None:
            return
        ahead = self._later_depths(trainer, depth) if trainer.state.fn == "fit" else []
        full_before = outputs.full_reason
        try:
            # The hook runs outside the autocast of the training step.
            with trainer.precision_plugin.forward_context():
                states = outputs.states(batch, depth, ahead=ahead)
        except OSError as error:
            folder = outputs.store_folder.folder
            self._disable(trainer, f"cannot use its folder {folder}: {error}")
            return
        batch[_HIDDEN], batch[_DEPTH] = states, depth
        self._report(trainer, outputs, depth, full_before)

    def _find_depth(
        self, trainer: Trainer, outputs: PrefixOutputs, *, training: bool
    ) -> int | None:
        """Return the depth to start from, or None to run the whole backbone."""
        if trainer.state.fn != "fit":
            # Looked up once, as the weights of a test are constant; -1: there is no store.
            if self._depth is None:
                self._depth = outputs.highest_stored_depth() or -1
            return self._depth if self._depth > 0 else None
        depth = min(outputs.prefix.frozen(training=training) - 1, outputs.top)
        return depth if depth >= 1 else None  # reading a store costs more than the embeddings

    def _later_depths(self, trainer: Trainer, depth: int) -> list[int]:
        """Return the depths below ``depth`` that a later phase of unfreezing starts from."""
        found = {
            count - 1
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, GradualUnfreezing)
            for count in callback.frozen_ahead()
        }
        return sorted(other for other in found if 1 <= other < depth)

    def _build_outputs(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any
    ) -> PrefixOutputs | None:
        """Return the prefix outputs, or None if they cannot be used (yet)."""
        backbone = getattr(pl_module, self.backbone, None)
        parameters = backbone.parameters() if isinstance(backbone, nn.Module) else iter(())
        first = next(parameters, None)
        if trainer.state.fn == "fit" and (first is None or first.requires_grad):
            return None  # no frozen layers yet, so a missing requirement is not worth a log line
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(backbone, SupportsPartialForward):
            missing = "hidden_states_at, max_partial_depth and partial_hidden_size"
            self._disable(trainer, f"{self.backbone} has no {missing}")
            return None
        if not isinstance(data, HasTokens):
            self._disable(trainer, "the DataModule has no token_table")
            return None
        if not isinstance(batch, dict) or "row" not in batch:
            self._disable(trainer, "the batches have no `row`")
            return None
        folder = Path(self.folder or cache_dir() / "activations").expanduser()
        context = f"{trainer.precision_plugin.precision} {pl_module.device.type}"
        self._outputs = PrefixOutputs(
            backbone,
            data.token_table,
            StoreFolder(folder, limit=int(self.limit_gb * 1e9)),
            dtype=getattr(torch, self.dtype) if self.dtype else None,
            first_token=bool(getattr(pl_module, "reads_first_token", False)),
            context=context,
        )
        return self._outputs

    def _disable(self, trainer: Trainer, reason: str) -> None:
        """Disable the cache for the rest of the run, and log the reason in a fit."""
        self._disabled = True
        if trainer.is_global_zero and trainer.state.fn == "fit":
            log.info("the activation cache is disabled: %s", reason)

    def _report(
        self, trainer: Trainer, outputs: PrefixOutputs, depth: int, full_before: str | None
    ) -> None:
        """Log a full cache and a new depth, each once."""
        if not trainer.is_global_zero:
            return
        if outputs.full_reason and not full_before:
            log.warning(
                "the activation cache is full after %s rows: %s; the other rows are computed in "
                "each epoch; increase activation_cache.limit_gb=%g",
                f"{outputs.count(depth):,}",
                outputs.full_reason,
                self.limit_gb,
            )
        if depth != self._depth and trainer.state.fn == "fit":
            self._depth = depth
            log.info(
                "depths 0-%d are frozen: their output is computed once and stored in %s",
                depth,
                outputs.store_folder.folder,
            )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the stores after a failed run."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the stores, so that they may be evicted."""
        if self._outputs is not None:
            self._outputs.close()
            self._outputs = None
