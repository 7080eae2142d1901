"""The configs that ship with the package; Hydra finds them as ``pkg://lightning_transfer.conf``."""
