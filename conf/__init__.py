"""Configs shipped with the package, found by Hydra as ``pkg://lightning_transfer.conf``."""
