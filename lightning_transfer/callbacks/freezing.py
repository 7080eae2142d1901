"""Freezing of a part of a module for the whole run."""

import logging
from collections.abc import Callable, Sequence

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_transfer.callbacks.layer_lookup import find_layers, match_parameter_names
from lightning_transfer.callbacks.trainable_set import (
    Freezer,
    TrainableSet,
    trainable_summary,
    unfreeze,
)

log = logging.getLogger(__name__)


class Freezing(Freezer):
    r"""Freeze layers or parameters for the whole run, by depth, name or function.

    Frozen parameters have no gradient. Layers and other modules with frozen parameters only are in
    eval mode: no dropout, and constant running statistics. Trainable and partly trainable layers
    are in train mode, also in a model from ``from_pretrained``. Parameters outside the backbone,
    such as a head, are trainable unless they match ``names`` or ``function``.

    Args:
        below: ``all`` freezes the whole backbone, ``embeddings`` depth 0 only, and an integer the
            layers below this depth (0: no layer; 1: the embeddings; -2: all except the top two).
            None: ``all``, unless ``names`` or ``function`` is given.
        names: Regexes over parameter names. A parameter is frozen if one of them matches anywhere
            in its name.
        function: Called with the name of each parameter and the parameter; returns True to freeze
            it.
        backbone: Attribute path of the backbone in the LightningModule. The backbone has
            ``layers``, an ordered list of modules from the input up.

    Raises:
        ValueError: If more than one of ``below``, ``names`` and ``function`` is given, or
            ``below`` is no depth. At the start of the fit: if the depth does not exist, the
            backbone has no layers, or a regex is invalid or matches no parameter.

    Example:
        >>> Freezing(names=[r"^backbone\.(?!.*bias$)"]).names  # BitFit: train biases and head
        ['^backbone\\.(?!.*bias$)']
    """

    def __init__(
        self,
        below: int | str | None = None,
        *,
        names: list[str] | None = None,
        function: Callable[[str, nn.Parameter], bool] | None = None,
        backbone: str = "backbone",
    ) -> None:
        """See the class."""
        super().__init__()
        given = [below, names, function]
        if sum(part is not None for part in given) > 1:
            raise ValueError(
                f"give only one of below, names and function, got below={below!r}, "
                f"names={names!r} and function={function!r}"
            )
        if names is None and function is None and below is None:
            below = "all"
        # Not isinstance: True is an int.
        if below not in (None, "all", "embeddings") and type(below) is not int:
            raise ValueError(f"below must be all, embeddings or an integer, got {below!r}")
        self.below = below
        self.names = names
        self.function = function
        self.backbone = backbone

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze the parameters."""
        # In setup, because DDP wraps the module afterwards and registers the trainable parameters.
        if stage != "fit":
            return
        unfreeze(pl_module)
        names, layers = self.frozen(pl_module)
        self._trainable = TrainableSet(pl_module, self._layers(pl_module))
        self._trainable.set_modes()
        self._trainable.freeze(names, layers)
        if trainer.is_global_zero:
            log.info("froze %s: %s trainable", self._description(), trainable_summary(pl_module))

    def check(self, pl_module: LightningModule) -> None:
        """Raise if the arguments do not fit a module.

        Raises:
            ValueError: See :meth:`frozen`.
        """
        self.frozen(pl_module)

    def frozen(self, pl_module: LightningModule) -> tuple[set[str], Sequence[nn.Module]]:
        """Return the names of the parameters to freeze, and the layers if given by depth.

        Raises:
            ValueError: If the depth does not exist, the backbone has no layers, or a regex is
                invalid or matches no parameter.
        """
        named = dict(pl_module.named_parameters())
        if self.function is not None:
            return {name for name, p in named.items() if self.function(name, p)}, ()
        if self.names is not None:
            matches = [match_parameter_names(r, list(named), "names") for r in self.names]
            return {name for found in matches for name in found}, ()
        if self.below == "all":
            # By prefix, not by layers: a backbone may have parameters outside its layers.
            return {n for n in named if n.startswith(f"{self.backbone}.")}, (
                pl_module.get_submodule(self.backbone),
            )
        stack = find_layers(pl_module, f"{self.backbone}.layers")
        depth = 1 if self.below == "embeddings" else int(self.below or 0)
        if not -stack.count <= depth <= stack.count:
            raise ValueError(
                f"below={depth} is no depth of the backbone: its depths are 0..{stack.count - 1}; "
                f"below={stack.count} freezes all layers"
            )
        depth += stack.count if depth < 0 else 0
        return {n for n, at in stack.depth_of.items() if at < depth}, stack.modules[:depth]

    def _layers(self, pl_module: LightningModule) -> Sequence[nn.Module]:
        """Return the layers of the backbone, empty if it has no ``layers``."""
        backbone = dict(pl_module.named_modules()).get(self.backbone)
        return tuple(getattr(backbone, "layers", ()))

    def _description(self) -> str:
        """Return the frozen part for a log line."""
        if self.function is not None:
            # For a method, such as that of an adapter, the class is more telling than its name.
            owner = getattr(self.function, "__self__", None)
            name = getattr(self.function, "__name__", "a function")
            return f"parameters chosen by {name if owner is None else type(owner).__name__}"
        if self.names is not None:
            return f"parameters matching {' or '.join(self.names)}"
        parts = {"all": "the backbone", "embeddings": "the embeddings"}
        return parts.get(str(self.below), f"layers below depth {self.below}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the modes."""
        # A run resumed in the middle of an epoch does not call on_train_epoch_start.
        if self._trainable is not None:
            self._trainable.set_modes()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the modes again: a validation between the epochs may have changed them."""
        self.on_train_start(trainer, pl_module)
