"""L2-SP: penalty on the distance from the initial parameters of a stage."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_transfer.utils.initial_parameters import InitialParameters


class L2SP(nn.Module):
    """Penalty on the distance from the initial parameters (Li et al. 2018, arXiv:1802.01483).

    With the parameters w of the backbone, their values w0 at the start of the stage, and the
    parameters v of the head, the loss is ``alpha / 2 * ||w - w0||^2 + beta / 2 * ||v||^2``. Only
    parameters that require grad count. The penalty replaces weight decay, so set
    ``optimizer.weight_decay=0``.

    Differences from the paper: norms and biases are penalized as all other parameters, and the
    head is pulled to zero even if it was transferred from the previous stage. The paper trains with
    SGD; Adam divides the gradient of the penalty by its running size, like any gradient.

    The initial values w0 are stored in resume points only, not in final checkpoints.

    Args:
        alpha: Strength of the penalty on the backbone, >= 0.
        beta: Strength of the penalty on the head, >= 0.

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
        # Not buffers: a final checkpoint must not contain a second copy of the backbone.
        self._initial = InitialParameters()

    def begin(self, task: nn.Module) -> None:
        """Delete the initial values of an earlier fit."""
        # A second fit of the same task starts from other weights.
        self._initial.clear()

    def forward(self, labelled: Mapping[str, Any], unlabelled: Any, task: Any) -> Tensor:
        """Return the penalty, a float scalar ().

        Args:
            labelled: Labelled batch; only its device is used.
            unlabelled: Unlabelled batch or None; not used.
            task: Task with ``backbone`` and ``head``.
        """
        # A parameter is recorded in the first step that it requires grad, so a layer that is
        # unfrozen later still has its initial value then.
        distances = [
            functional.mse_loss(weight, self._initial.of(name, weight), reduction="sum")
            for name, weight in task.backbone.named_parameters()
            if weight.requires_grad
        ]
        norms = [w.square().sum() for w in task.head.parameters() if w.requires_grad]
        # With a frozen backbone or head the sum is empty.
        zero = torch.zeros((), device=labelled["labels"].device)
        distance = torch.stack(distances).sum() if distances else zero
        norm = torch.stack(norms).sum() if norms else zero
        return self.alpha / 2 * distance + self.beta / 2 * norm

    def resume_state(self) -> dict[str, Tensor]:
        """Return the initial values by parameter name, for a resume point."""
        return self._initial.state_dict()

    def load_resume_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the initial values from a resume point."""
        self._initial.load_state_dict(state)
