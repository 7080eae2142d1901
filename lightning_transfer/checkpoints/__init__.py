"""Checkpoints and model folders, written atomically and read without running code from them."""

from lightning_transfer.checkpoints.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from lightning_transfer.checkpoints.loading import (
    Loaded,
    Weights,
    load,
    load_tokenizer,
    read_weights,
)
from lightning_transfer.checkpoints.model_folder import export

__all__ = [
    "AtomicCheckpointIO",
    "Loaded",
    "Weights",
    "export",
    "load",
    "load_tokenizer",
    "read_checkpoint",
    "read_weights",
]
