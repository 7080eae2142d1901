"""Experiments: plan, stages, baselines, results and the run folder."""

from lightning_transfer.utils.lazy import lazy_attributes

__all__ = ["Experiment", "Results"]

# Records and tables of a sweep are read without torch, which `Experiment` imports.
__getattr__ = lazy_attributes(
    __name__,
    {
        "Experiment": "lightning_transfer.experiments.experiment",
        "Results": "lightning_transfer.experiments.results",
    },
)
