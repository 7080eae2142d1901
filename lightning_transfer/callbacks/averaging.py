"""Averages of the weights over the steps of a run, with Lightning's ``WeightAveraging``."""

from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


def ema_averaging(decay: float = 0.999, *, device: str | None = None) -> WeightAveraging:
    """Return a callback for an exponential moving average (EMA) of the weights.

    The average is validated, saved, transferred to the next stage and exported. The training
    continues with the weights themselves. Frozen layers are constant in the average too. Buffers
    are not averaged: those of a language model are position tables.

    Args:
        decay: Weight of the old average in an optimizer step, in [0, 1). The average covers about
            the last ``1 / (1 - decay)`` steps; choose fewer than the steps of the run.
        device: Device of the average; None: the device of the model.

    Raises:
        ValueError: If ``decay`` is out of range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    # Not Lightning's EMAWeightAveraging: its decay * average + (1 - decay) * weight is inexact if
    # both are equal, and a frozen layer drifts by up to 1e-5 of its weights in 1,000 steps. torch
    # computes average + (1 - decay) * (weight - average).
    return WeightAveraging(device, use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))
