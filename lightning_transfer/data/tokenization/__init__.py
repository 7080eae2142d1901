"""Tokenization: token tables, their cache, and training of tokenizers."""
