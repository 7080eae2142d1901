"""Outputs of frozen layers, computed once and kept on disk."""

from lightning_transfer.activations.replayer import Replayer
from lightning_transfer.activations.shelf import Shelf
from lightning_transfer.activations.store import ActivationStore

__all__ = ["ActivationStore", "Replayer", "Shelf"]
