"""The weights that a run started from, kept for those who pull or mix towards them."""

from collections.abc import Mapping

from torch import Tensor


class InitialParameters:
    """Copies of parameters as they were before they first trained.

    A parameter is copied when it is first asked for. Ask for those that require grad, before the
    first step of each: one that was frozen until then has not moved, and one that stays frozen
    costs no memory. The copies are no buffers, so that exported weights, final checkpoints and
    averaged models know nothing of them; whoever holds them puts :meth:`state_dict` into its resume
    points.

    Example:
        >>> import torch
        >>> weight, kept = torch.nn.Parameter(torch.ones(1)), InitialParameters()
        >>> before = kept.of("weight", weight)
        >>> _ = weight.detach().add_(1)
        >>> kept.of("weight", weight)
        tensor([1.])
    """

    def __init__(self) -> None:
        """See the class."""
        self._kept: dict[str, Tensor] = {}

    def of(self, name: str, parameter: Tensor) -> Tensor:
        """Return what a parameter was when it was first asked for, on the parameter's device.

        Args:
            name: What tells it from the others, also after a resume.
            parameter: Of any shape.
        """
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = parameter.detach().clone()
        elif kept.device != parameter.device:
            kept = self._kept[name] = kept.to(parameter.device)
        return kept

    def clear(self) -> None:
        """Forget the copies: another run starts."""
        self._kept = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the copies by name."""
        return dict(self._kept)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the copies of a run that is resumed."""
        self._kept = dict(state)
