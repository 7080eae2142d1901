"""Mixout: dropout towards the source weights."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional

from lightning_transfer.utils.initial_parameters import InitialParameters


class Mixout(Callback):
    """Replace a random share of the backbone's weights by their source values in each step.

    Lee et al. 2020 (arXiv:1909.11299). In training, every linear layer of the backbone computes
    with ``W' = (M * W0 + (1 - M) * W - p * W0) / (1 - p)``, where W0 is W at the start of the run
    and M is 1 with probability ``p``; the mean of W' is W. In eval mode W itself is used, and
    names, weights, checkpoints and exports are those of a run without mixout. Frozen layers are
    left alone.

    Like the authors' code, this mixes the weights of ``nn.Linear``, neither biases nor embeddings
    nor norms, and draws M once for all weights that leave an input unit. We differ in that the
    gradient is that of the formula (theirs lacks the factor 1 / (1 - p)), and in that all linear
    layers of the backbone are mixed, not those alone that follow a dropout; the head, which has no
    source, is not. In the paper mixout takes the place of dropout: set the backbone's to 0.

    The source values go into resume points, as part of this callback's state, and nowhere else.

    Args:
        p: Probability of a source value, in [0, 1). The paper tries 0.7, 0.8 and 0.9.
        unit: ``neuron`` draws one number for an input unit of a layer, ``weight`` one for each
            weight, as DropConnect does.
        backbone: Attribute path of the backbone in the LightningModule.

    Raises:
        ValueError: If ``p`` or ``unit`` is out of its range, or (at the start of the run) if the
            backbone has no linear layer.

    Example:
        >>> Mixout(0.7).unit
        'neuron'
    """

    def __init__(self, p: float = 0.7, *, unit: str = "neuron", backbone: str = "backbone") -> None:
        """See the class."""
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be a probability in [0, 1), got {p}")
        if unit not in ("neuron", "weight"):
            raise ValueError(f"unit must be neuron or weight, got {unit!r}")
        self.p = p
        self.unit = unit
        self.backbone = backbone
        self._source = InitialParameters()
        self._mixed: list[nn.Linear] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run; what a resume point holds comes back after this."""
        if stage == "fit":
            self._source.clear()
            self._layers(pl_module)

    def _layers(self, pl_module: LightningModule) -> dict[str, nn.Linear]:
        found = {
            name: module
            for name, module in pl_module.get_submodule(self.backbone).named_modules()
            if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
        }
        if not found:
            raise ValueError(
                f"mixout mixes the weights of nn.Linear, and {self.backbone} has none; leave the "
                "callback out, or name another part by `backbone`"
            )
        return found

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the layers compute with mixed weights."""
        for name, layer in self._layers(pl_module).items():
            layer.forward = partial(self._forward, name, layer)  # type: ignore[method-assign]
            self._mixed.append(layer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let them compute with their own again."""
        for layer in self._mixed:
            layer.__dict__.pop("forward", None)
        self._mixed = []

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let them compute with their own again, however the run ended."""
        self.on_train_end(trainer, pl_module)

    def _forward(self, name: str, layer: nn.Linear, hidden: Tensor) -> Tensor:
        used: Tensor = layer.weight
        if layer.training and layer.weight.requires_grad and self.p > 0:
            used = self.mix(layer.weight, self._source.of(name, layer.weight))
        return functional.linear(hidden, used, layer.bias)  # (..., out)

    def mix(self, weight: Tensor, source: Tensor) -> Tensor:
        """Return W' of the same shape and dtype as ``weight``, (out, in), and ``source``."""
        shape = (1, weight.shape[1]) if self.unit == "neuron" else weight.shape
        replaced = torch.rand(shape, device=weight.device) < self.p  # (1, in) or (out, in)
        return (torch.where(replaced, source, weight) - self.p * source) / (1 - self.p)

    def state_dict(self) -> dict[str, Any]:
        """Return the source values, for resume points."""
        return {"source": self._source.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the source values of the run that is resumed."""
        self._source.load_state_dict(state_dict["source"])
