"""Metrics of generated texts, entities, predicted tokens and extractive summaries."""
