"""Backbones: pretrained models as ordered stacks of layers."""

from lightning_transfer.backbones.backbone import Backbone

__all__ = ["Backbone"]
