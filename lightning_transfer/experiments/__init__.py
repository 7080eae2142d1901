"""Experiments: plan, stages, baselines, results and the run folder."""

from typing import Any

__all__ = ["Experiment", "Results"]


def __getattr__(name: str) -> Any:
    """Import a public class at its first use: records and tables of a sweep need no torch."""
    if name == "Experiment":
        from lightning_transfer.experiments.experiment import Experiment

        return Experiment
    if name == "Results":
        from lightning_transfer.experiments.results import Results

        return Results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
