"""Heads: plain modules from backbone features to task outputs.

A head of your own is an ``nn.Module`` built with ``(hidden_size, num_outputs)`` whose ``forward``
takes token features (batch, seq, hidden) and the attention mask (batch, seq). Call its last
``nn.Linear`` ``out`` and its rows can be carried over by label name. If it reads the first token's
features alone, say so by an attribute ``first_token`` that is true: the top layer then computes no
others, and it is given (batch, 1, hidden). One with outputs for each token says so by an attribute
``per_token`` that is true.
"""

from lightning_transfer.heads.decoder import DecoderHead
from lightning_transfer.heads.language_model import LanguageModelHead
from lightning_transfer.heads.linear import LinearHead
from lightning_transfer.heads.mlp import MLPHead
from lightning_transfer.heads.next_token import NextTokenHead
from lightning_transfer.heads.token import TokenHead

__all__ = [
    "DecoderHead",
    "LanguageModelHead",
    "LinearHead",
    "MLPHead",
    "NextTokenHead",
    "TokenHead",
]
