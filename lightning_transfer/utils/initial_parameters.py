"""Initial parameters of a run, for methods that regularise towards them (L2-SP, mixout)."""

from collections.abc import Mapping

from torch import Tensor


class InitialParameters:
    """Copies of parameters, taken before their first optimizer step.

    A parameter is copied at the first call of :meth:`of` with its name. Call it for parameters
    that require grad only, before the first step of each: a parameter frozen until then still has
    its initial value, and a parameter frozen for the whole run needs no memory. The owner of this
    object saves :meth:`state_dict` in its resume points.

    Example:
        >>> import torch
        >>> weight, initial = torch.nn.Parameter(torch.ones(1)), InitialParameters()
        >>> before = initial.of("weight", weight)
        >>> _ = weight.detach().add_(1)
        >>> initial.of("weight", weight)
        tensor([1.])
    """

    def __init__(self) -> None:
        """See the class."""
        # Not buffers of a module: exported weights, final checkpoints and averaged models must not
        # contain the copies.
        self._copies: dict[str, Tensor] = {}

    def of(self, name: str, parameter: Tensor) -> Tensor:
        """Return the initial value of a parameter.

        Args:
            name: Unique name of the parameter; the same one after a resume.
            parameter: The parameter, of any shape and dtype.

        Returns:
            The value at the first call, detached, on the device of ``parameter``.
        """
        copy = self._copies.get(name)
        if copy is None:
            copy = self._copies[name] = parameter.detach().clone()
        elif copy.device != parameter.device:
            # Copies from a resume point may be on another device than the module.
            copy = self._copies[name] = copy.to(parameter.device)
        return copy

    def clear(self) -> None:
        """Delete the copies, at the start of a new run."""
        self._copies = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the copies by parameter name."""
        return dict(self._copies)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the copies of a resumed run."""
        self._copies = dict(state)
