"""Handing on: what a stage takes from the weights before it, matched by name."""

from lightning_transfer.weight_transfer.head_weights import align_outputs
from lightning_transfer.weight_transfer.transfer import hand_over
from lightning_transfer.weight_transfer.vocabularies import Tokenizers
from lightning_transfer.weight_transfer.vocabulary_config import config_for
from lightning_transfer.weight_transfer.weight_transfer_report import HandedOn, HandedPart
from lightning_transfer.weight_transfer.weight_transfer_spec import Take

__all__ = [
    "HandedOn",
    "HandedPart",
    "Take",
    "Tokenizers",
    "align_outputs",
    "config_for",
    "hand_over",
]
