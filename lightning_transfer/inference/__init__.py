"""Inference with a trained task, in memory or from file to file: labels, tags, generated texts."""

from lightning_transfer.inference.predictor import Predictor
from lightning_transfer.inference.tagger import Tagger
from lightning_transfer.inference.text_generator import TextGenerator

__all__ = [
    "Predictor",
    "Tagger",
    "TextGenerator",
]
