"""Metrics of generated text, entities, tokens and extractive summaries."""
