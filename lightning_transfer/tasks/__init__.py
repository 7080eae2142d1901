"""Tasks: LightningModules of a backbone and a head."""

from lightning_transfer.tasks.causal_language_modelling import CausalLanguageModelling
from lightning_transfer.tasks.generation import Generation
from lightning_transfer.tasks.lead_text import LeadText
from lightning_transfer.tasks.masked_language_modelling import MaskedLanguageModelling
from lightning_transfer.tasks.sentence_extraction import LeadSentences, SentenceExtraction
from lightning_transfer.tasks.sequence_classification import SequenceClassification
from lightning_transfer.tasks.sequence_regression import SequenceRegression
from lightning_transfer.tasks.sequence_to_sequence import SequenceToSequence
from lightning_transfer.tasks.token_classification import TokenClassification
from lightning_transfer.tasks.transfer_module import TransferModule

__all__ = [
    "CausalLanguageModelling",
    "Generation",
    "LeadSentences",
    "LeadText",
    "MaskedLanguageModelling",
    "SentenceExtraction",
    "SequenceClassification",
    "SequenceRegression",
    "SequenceToSequence",
    "TokenClassification",
    "TransferModule",
]
