"""Adapters: a few new weights inside a frozen backbone, which train in its stead."""

from lightning_transfer.adapters.adapter import Adapter, merge
from lightning_transfer.adapters.bottleneck import Bottleneck
from lightning_transfer.adapters.ia3 import IA3
from lightning_transfer.adapters.lora import LoRA
from lightning_transfer.adapters.prefix_tuning import PrefixTuning

# Sorted as text: IA3 is a class and no constant.
__all__ = ["Adapter", "Bottleneck", "IA3", "LoRA", "PrefixTuning", "merge"]  # noqa: RUF022
