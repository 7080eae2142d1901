"""Mixout: dropout towards the initial parameters of a run (arXiv:1909.11299)."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional

from lightning_transfer.utils.initial_parameters import InitialParameters


class Mixout(Callback):
    """Replace a random fraction of the backbone's weights by their initial values in each step.

    Lee et al. 2020 (arXiv:1909.11299). During training, each linear layer of the backbone computes
    with ``W' = (M * W0 + (1 - M) * W - p * W0) / (1 - p)``. W0 is W at the start of the run, and M
    is 1 with probability ``p``, so the mean of W' is W. In eval mode the layers compute with W.
    Parameter names, weights, checkpoints and exports are those of a run without mixout. Frozen
    layers are not mixed.

    As in the authors' code, only the weights of ``nn.Linear`` are mixed (no biases, embeddings or
    norms), and M is equal for all weights of an input unit. Differences from their code:

    - The gradient is that of the formula. Theirs lacks the factor 1 / (1 - p).
    - All linear layers of the backbone are mixed, not only those after a dropout. The head is not
      mixed, because it has no pretrained weights.

    In the paper, mixout replaces dropout: set the backbone's dropout to 0. Resume points contain
    the initial values, in the state of this callback. No other file contains them.

    Args:
        p: Probability of the initial value, in [0, 1). The paper uses 0.7, 0.8 and 0.9.
        unit: ``neuron`` draws one random number per input unit of a layer, ``weight`` one per
            weight, as in DropConnect.
        backbone: Attribute path of the backbone in the LightningModule.

    Raises:
        ValueError: If ``p`` or ``unit`` is out of range, or (at the start of the fit) the backbone
            has no linear layer.

    Example:
        >>> Mixout(0.7).unit
        'neuron'
    """

    def __init__(self, p: float = 0.7, *, unit: str = "neuron", backbone: str = "backbone") -> None:
        """See the class."""
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p}")
        if unit not in ("neuron", "weight"):
            raise ValueError(f"unit must be one of neuron, weight, got {unit!r}")
        self.p = p
        self.unit = unit
        self.backbone = backbone
        self._initial = InitialParameters()
        self._mixed: list[nn.Linear] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Delete the initial values of an earlier run, and check the backbone."""
        # A checkpoint is loaded after this hook, so the values of a resumed run stay.
        if stage == "fit":
            self._initial.clear()
            self._layers(pl_module)

    def _layers(self, pl_module: LightningModule) -> dict[str, nn.Linear]:
        found = {
            name: module
            for name, module in pl_module.get_submodule(self.backbone).named_modules()
            # A subclass with its own forward may compute something else, so it is not mixed.
            if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
        }
        if not found:
            raise ValueError(
                f"mixout needs nn.Linear layers, and {self.backbone} has none; remove the callback "
                "or set `backbone` to another module"
            )
        return found

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the linear layers compute with mixed weights."""
        # On the instance: parametrizations or a wrapper module would change parameter names.
        for name, layer in self._layers(pl_module).items():
            layer.forward = partial(self._forward, name, layer)  # type: ignore[method-assign]
            self._mixed.append(layer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the layers."""
        for layer in self._mixed:
            layer.__dict__.pop("forward", None)
        self._mixed = []

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the layers after a failed run."""
        self.on_train_end(trainer, pl_module)

    def _forward(self, name: str, layer: nn.Linear, hidden: Tensor) -> Tensor:
        used: Tensor = layer.weight
        if layer.training and layer.weight.requires_grad and self.p > 0:
            used = self.mix(layer.weight, self._initial.of(name, layer.weight))
        return functional.linear(hidden, used, layer.bias)  # (..., out)

    def mix(self, weight: Tensor, source: Tensor) -> Tensor:
        """Return the mixed weights W'.

        Args:
            weight: Current weights W, float ``(out, in)``.
            source: Initial weights W0, of the same shape and dtype.

        Returns:
            Float ``(out, in)``, with the gradient of ``weight``.
        """
        shape = (1, weight.shape[1]) if self.unit == "neuron" else weight.shape
        replaced = torch.rand(shape, device=weight.device) < self.p  # (1, in) or (out, in)
        return (torch.where(replaced, source, weight) - self.p * source) / (1 - self.p)

    def state_dict(self) -> dict[str, Any]:
        """Return the initial values, for resume points."""
        return {"source": self._initial.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the initial values of a resumed run."""
        self._initial.load_state_dict(state_dict["source"])
