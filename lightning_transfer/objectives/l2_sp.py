"""L2-SP: a pull towards the weights that the stage started from."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_transfer.utils.initial_parameters import InitialParameters


class L2SP(nn.Module):
    """Penalize the distance from the source weights (Li et al. 2018, arXiv:1802.01483).

    With the backbone's weights w, their values w0 at the start of the stage, and the head's weights
    v, the extra loss is ``alpha / 2 * ||w - w0||^2 + beta / 2 * ||v||^2`` over the parameters that
    require grad; frozen ones cost nothing. It takes the place of weight decay, which pulls to zero:
    set the optimizer's ``weight_decay`` to 0.

    We differ from the paper in that norms and biases count like all other parameters, and in that
    the head is drawn to zero also where a stage keeps the head of the one before. The paper trained
    with SGD; under Adam the pull, like every gradient, is divided by its running size.

    w0 is no part of the weights: a final checkpoint holds none of it, a resume point all.

    Args:
        alpha: Strength of the pull of the backbone, >= 0.
        beta: Strength of the pull of the head to zero, >= 0.

    Raises:
        ValueError: If a strength is negative.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 0.01) -> None:
        """See the class."""
        super().__init__()
        if alpha < 0 or beta < 0:
            raise ValueError(f"alpha and beta must be >= 0, got {alpha} and {beta}")
        self.alpha = alpha
        self.beta = beta
        self._source = InitialParameters()

    def begin(self, task: nn.Module) -> None:
        """Forget an earlier run: the weights that this one starts from count."""
        self._source.clear()

    def forward(self, source: Mapping[str, Any], target: Any, task: Any) -> Tensor:
        """Return the penalty, a scalar.

        Args:
            source: The labelled batch; not looked at.
            target: The unlabelled batch or None; not looked at.
            task: With ``backbone`` and ``head``.
        """
        far = [
            functional.mse_loss(weight, self._source.of(name, weight), reduction="sum")
            for name, weight in task.backbone.named_parameters()
            if weight.requires_grad
        ]
        large = [w.square().sum() for w in task.head.parameters() if w.requires_grad]
        zero = torch.zeros((), device=source["labels"].device)
        pull = torch.stack(far).sum() if far else zero
        size = torch.stack(large).sum() if large else zero
        return self.alpha / 2 * pull + self.beta / 2 * size

    def resume_state(self) -> dict[str, Tensor]:
        """Return what a resume point has to hold: w0 by parameter name."""
        return self._source.state_dict()

    def load_resume_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what a resume point holds."""
        self._source.load_state_dict(state)
