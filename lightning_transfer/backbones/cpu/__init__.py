"""Faster forms, for training on the CPU, of what a pretrained model computes anyway.

On two cores a quarter of a training step of a small model is not matrix multiply, and dropout is
the largest part of that. What is learned stays the same; on other devices, in eval mode and where
nothing is dropped, torch's and transformers' own code runs.
"""

from lightning_transfer.backbones.cpu.attention import goes_through_the_interface, register
from lightning_transfer.backbones.cpu.dropout import FastDropout
from lightning_transfer.backbones.cpu.first_token import first_token_only
from lightning_transfer.backbones.cpu.install import install
from lightning_transfer.backbones.cpu.memory import give_back_freed_memory, keep_freed_memory

__all__ = [
    "FastDropout",
    "first_token_only",
    "give_back_freed_memory",
    "goes_through_the_interface",
    "install",
    "keep_freed_memory",
    "register",
]
