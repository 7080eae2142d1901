"""Activation cache: outputs of frozen layers, computed once and stored on disk."""

from lightning_transfer.callbacks.activation_cache.activation_store import ActivationStore
from lightning_transfer.callbacks.activation_cache.prefix_outputs import PrefixOutputs
from lightning_transfer.callbacks.activation_cache.store_folder import StoreFolder

__all__ = ["ActivationStore", "PrefixOutputs", "StoreFolder"]
