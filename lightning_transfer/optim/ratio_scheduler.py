"""Any scheduler, with the ratios between the groups' learning rates kept."""

from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


class RatioScheduler(LRScheduler):
    """Run a scheduler as if all groups had one rate, then give each group its share.

    Schedulers know absolute rates, too: a floor (``min_lr``, ``eta_min``), a peak (``max_lr``), the
    smallest change worth making (``eps``). Applied to rates that stand in a ratio, each of these
    breaks the ratio, at the latest where the lowest layers' rates are small. So the scheduler sees
    the rate before the ratio, kept in the group as ``base_lr``, and afterwards
    ``lr = base_lr * lr_ratio``, exactly. Where a scheduler was given a value for each group, these
    count before the ratio.

    Its state is that of the scheduler inside; ``base_lr`` travels in the optimizer's.

    Args:
        inner: Already attached to its optimizer, whose groups hold rates before the ratio. A group
            without ``lr_ratio`` has ratio 1.

    Example:
        >>> import torch
        >>> groups = [{"params": [torch.zeros(1)], "lr_ratio": ratio} for ratio in (1.0, 0.5)]
        >>> optimizer = torch.optim.SGD(groups, lr=1.0)
        >>> inner = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
        >>> RatioScheduler(inner).get_last_lr()
        [1.0, 0.5]
    """

    def __init__(self, inner: LRScheduler) -> None:
        """See the class; the base's own constructor would take a step, which ``inner`` has done."""
        self.inner = inner
        self.optimizer = inner.optimizer
        self._share_out()

    def step(self, *args: Any) -> None:
        """Step the scheduler inside.

        Args:
            args: What it takes: nothing, or the monitored value.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("base_lr", group["lr"])
        try:
            self.inner.step(*args)
        finally:
            self._share_out()

    def _share_out(self) -> None:
        for group in self.optimizer.param_groups:
            group["base_lr"] = group["lr"]
            group["lr"] = group["base_lr"] * group.get("lr_ratio", 1.0)

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the groups' learning rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler inside."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the scheduler inside."""
        self.inner.load_state_dict(state_dict)
