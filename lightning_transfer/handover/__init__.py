"""Handing on: what a stage takes from the weights before it, matched by name."""

from lightning_transfer.handover.handed_on import HandedOn, HandedPart
from lightning_transfer.handover.handing import hand_over
from lightning_transfer.handover.heads import align_outputs
from lightning_transfer.handover.take import Take
from lightning_transfer.handover.vocabulary import config_for

__all__ = ["HandedOn", "HandedPart", "Take", "align_outputs", "config_for", "hand_over"]
