"""Heads: modules that map backbone features to task outputs.

To add a head, write an ``nn.Module`` with the constructor ``(hidden_size, num_outputs)`` and a
``forward`` that takes token features, float (batch, seq, hidden), and the attention mask, int64
(batch, seq). These attributes are optional:

- ``out``: the last ``nn.Linear``; weight transfer matches its rows by label name.
- ``first_token``: True if the head reads only the features of the first token. The top layer of the
  backbone then computes no others, and the features are (batch, 1, hidden).
- ``per_token``: True if the head has outputs for each token.
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
