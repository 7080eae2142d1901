"""Handing on: what a stage takes from the weights before it, matched by name."""

from lightning_transfer.handover.configs import config_for
from lightning_transfer.handover.handed_on import HandedOn, HandedPart
from lightning_transfer.handover.handing import hand_over
from lightning_transfer.handover.heads import align_outputs
from lightning_transfer.handover.take import Take
from lightning_transfer.handover.vocabulary import Tokenizers

__all__ = [
    "HandedOn",
    "HandedPart",
    "Take",
    "Tokenizers",
    "align_outputs",
    "config_for",
    "hand_over",
]
