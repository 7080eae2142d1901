"""Wrapper around any scheduler that keeps the ratios between the groups' learning rates."""

from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


class RatioScheduler(LRScheduler):
    """Wrapper that applies learning-rate ratios after each step of another scheduler.

    Schedulers have absolute limits: a lowest rate (``min_lr``, ``eta_min``), a peak (``max_lr``), a
    smallest change (``eps``). Applied to the small rates of low layers, each of them would break
    the ratios. The inner scheduler therefore works on rates without ratio, stored in each group as
    ``base_lr``, and then ``lr = base_lr * lr_ratio`` holds exactly. Per-group values of the inner
    scheduler count before the ratio.

    The state of this scheduler is that of the inner one; ``base_lr`` is in the optimizer's state.

    Args:
        inner: Scheduler attached to its optimizer, with learning rates without ratio in its groups.
            A group without ``lr_ratio`` has ratio 1.

    Example:
        >>> import torch
        >>> groups = [{"params": [torch.zeros(1)], "lr_ratio": ratio} for ratio in (1.0, 0.5)]
        >>> optimizer = torch.optim.SGD(groups, lr=1.0)
        >>> inner = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
        >>> RatioScheduler(inner).get_last_lr()
        [1.0, 0.5]
    """

    def __init__(self, inner: LRScheduler) -> None:
        """See the class."""
        # Without super().__init__(): it would take the initial step, which `inner` has taken.
        self.inner = inner
        self.optimizer = inner.optimizer
        self._apply_ratios()

    def step(self, *args: Any) -> None:
        """Step the inner scheduler, then apply the ratios.

        Args:
            args: Arguments of the inner scheduler: the monitored value, or none.
        """
        # Schedulers such as StepLR multiply the current rate, so they must see it without ratio.
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("base_lr", group["lr"])
        try:
            self.inner.step(*args)
        finally:
            # Even if the inner scheduler raises, as OneCycleLR does beyond its last step: the
            # groups would have learning rates without ratio.
            self._apply_ratios()

    def _apply_ratios(self) -> None:
        for group in self.optimizer.param_groups:
            group["base_lr"] = group["lr"]
            group["lr"] = group["base_lr"] * group.get("lr_ratio", 1.0)

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group, with its ratio."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the inner scheduler."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the inner scheduler."""
        self.inner.load_state_dict(state_dict)
