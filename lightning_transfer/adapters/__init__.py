"""Adapters: small trainable modules inside a frozen backbone."""

from lightning_transfer.adapters.adapter import Adapter, merge
from lightning_transfer.adapters.bottleneck import Bottleneck
from lightning_transfer.adapters.ia3 import IA3
from lightning_transfer.adapters.lora import LoRA
from lightning_transfer.adapters.prefix_tuning import PrefixTuning

# Sorted as text: ruff takes IA3 for a constant and would put it first.
__all__ = ["Adapter", "Bottleneck", "IA3", "LoRA", "PrefixTuning", "merge"]  # noqa: RUF022
