"""Averages of the weights over the steps of a run, by Lightning's own callback."""

from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


def ema_averaging(decay: float = 0.999, *, device: str | None = None) -> WeightAveraging:
    """Build the callback for an exponential moving average of the weights.

    Validated, kept, handed on and exported is the average; training goes on from the weights
    themselves. Lightning's ``EMAWeightAveraging`` computes ``decay * average + (1 - decay) *
    weight``, which is not exact where both are the same: a frozen layer drifts away by up to 1e-5
    of its weights in 1,000 steps. Here it is ``average + (1 - decay) * (weight - average)``, and
    frozen layers stay what they are. Buffers are not averaged: a language model's are tables of
    positions.

    Args:
        decay: What stays of the average in an optimizer step, in [0, 1). It reaches back about
            ``1 / (1 - decay)`` steps, which should be fewer than the run has.
        device: Where the average lies; None: with the model.

    Raises:
        ValueError: If ``decay`` is out of its range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    return WeightAveraging(device, use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))
