"""Optimised CPU code: faster dropout, attention and top layers for training.

On two CPU cores a quarter of a training step of a small model is not matrix multiplication, and
dropout is the largest part of this quarter. The replacements compute the same functions at lower
cost. Dropout and attention fall back to torch and transformers on other devices, in eval mode and
with a dropout of 0.
"""

from lightning_transfer.backbones.cpu.attention import register, uses_attention_interface
from lightning_transfer.backbones.cpu.dropout import FastDropout
from lightning_transfer.backbones.cpu.first_token import first_token_only
from lightning_transfer.backbones.cpu.install import install
from lightning_transfer.backbones.cpu.memory import keep_freed_memory, release_freed_memory

__all__ = [
    "FastDropout",
    "first_token_only",
    "install",
    "keep_freed_memory",
    "register",
    "release_freed_memory",
    "uses_attention_interface",
]
