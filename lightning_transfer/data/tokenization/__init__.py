"""Tokenization: token tables, their cache, trained tokenizers."""
