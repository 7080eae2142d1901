"""The control of all summaries by sentences: those that come first."""

import torch
from torch import Tensor

from lightning_transfer.tasks.base import Batch
from lightning_transfer.tasks.sentence_extraction import SentenceExtraction


class LeadSentences(SentenceExtraction):
    """Score sentences by their place: a summary is a document's beginning.

    Nothing is read and nothing is learned; train it for no step (``trainer.max_steps=0``).
    """

    def forward(self, batch: Batch) -> Tensor:
        """Return outputs, float (batch, 2), that fall with ``position``, int64 (batch,)."""
        place = batch["position"].float()  # (batch,)
        # Small, so that no two of them become equal as probabilities.
        return torch.stack([place / 1000, -place / 1000], dim=1)  # (batch, 2)
