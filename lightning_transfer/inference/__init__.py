"""Inference with a trained task: labels, tags and generated text, in memory or file to file."""

from lightning_transfer.inference.generator import TextGenerator
from lightning_transfer.inference.predictor import Predictor
from lightning_transfer.inference.tagger import Tagger

__all__ = [
    "Predictor",
    "Tagger",
    "TextGenerator",
]
