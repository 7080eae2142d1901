"""Batching: rows of a split as padded batches of similar length."""
