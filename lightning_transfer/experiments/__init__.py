"""Experiments: plan, stages, baselines, results and the run folder."""

from lightning_transfer.utils.lazy import lazy_attributes

__all__ = ["Experiment", "Results"]

# Lazy: the job records and tables of a sweep must not import torch, and `Experiment` does.
__getattr__ = lazy_attributes(
    __name__,
    {
        "Experiment": "lightning_transfer.experiments.experiment",
        "Results": "lightning_transfer.experiments.results",
    },
)
