"""Backbones: pretrained models as sequences of layers, with partial forward passes."""

from lightning_transfer.backbones.backbone import Backbone

__all__ = ["Backbone"]
