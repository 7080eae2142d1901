"""Freezing by depth, by names or by a function."""

import logging
from collections.abc import Callable, Sequence

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_transfer.callbacks.layer_lookup import find_layers, matching
from lightning_transfer.callbacks.trainable_set import Freezer, TrainableSet, count_line, thaw

log = logging.getLogger(__name__)


class Freezing(Freezer):
    r"""Freeze a part of the module for the whole run.

    What is frozen takes no gradient, which is settled before DDP wraps the module, and a layer or
    other module all of whose parameters are frozen is in eval mode: its dropout is off and its
    running statistics stand still. What trains, if only in part, is in train mode, also when the
    model came from ``from_pretrained``. What is outside the backbone, such as a head, trains
    unless ``names`` or ``function`` say otherwise.

    Args:
        below: ``all`` freezes the whole backbone, ``embeddings`` depth 0 alone, a number the
            layers at depths smaller than it (0: nothing; 1: the embeddings; -2: all but the top
            two). None: ``all``, unless one of the others is given.
        names: Regexes over parameter names; a parameter in whose name one is found is frozen.
        function: Called with each parameter's name and the parameter; whether it is frozen.
        backbone: Attribute path of the backbone in the LightningModule; it has ``layers``, an
            ordered list of modules from the input up.

    Raises:
        ValueError: If more than one of the three is given, ``below`` is no depth, or (at the start
            of the run) there is no such depth or a regex matches nothing.

    Example:
        >>> Freezing(names=[r"^backbone\.(?!.*bias$)"]).names  # BitFit: biases train, and the head
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
                f"give one of below, names and function, got below={below!r}, names={names!r} and "
                f"function={function!r}"
            )
        if names is None and function is None and below is None:
            below = "all"
        if below not in (None, "all", "embeddings") and type(below) is not int:
            raise ValueError(
                f"below must be all, embeddings or a whole number of layers, got {below!r}"
            )
        self.below = below
        self.names = names
        self.function = function
        self.backbone = backbone

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the gradients away, before the strategy wraps the module."""
        if stage != "fit":
            return
        thaw(pl_module)
        names, layers = self.frozen(pl_module)
        self._trainable = TrainableSet(pl_module, self._layers(pl_module))
        self._trainable.set_modes()
        self._trainable.freeze(names, layers)
        if trainer.is_global_zero:
            log.info("frozen %s: %s train", self._what(), count_line(pl_module))

    def check(self, pl_module: LightningModule) -> None:
        """Raise what is wrong with the part of a module that is to be frozen.

        Raises:
            ValueError: As the class says.
        """
        self.frozen(pl_module)

    def frozen(self, pl_module: LightningModule) -> tuple[set[str], Sequence[nn.Module]]:
        """Return names of the parameters that are frozen, and the layers, where depth says it.

        Raises:
            ValueError: If there is no such depth, the backbone shows no layers, or a regex matches
                nothing.
        """
        named = dict(pl_module.named_parameters())
        if self.function is not None:
            return {name for name, p in named.items() if self.function(name, p)}, ()
        if self.names is not None:
            return {n for regex in self.names for n in matching(regex, list(named), "names")}, ()
        if self.below == "all":
            return {n for n in named if n.startswith(f"{self.backbone}.")}, (
                pl_module.get_submodule(self.backbone),
            )
        layers = find_layers(pl_module, f"{self.backbone}.layers")
        depth = 1 if self.below == "embeddings" else int(self.below or 0)
        if not -layers.count <= depth <= layers.count:
            raise ValueError(
                f"below={depth} is no depth of the backbone: they are 0..{layers.count - 1}; "
                f"below={layers.count} freezes all layers"
            )
        depth += layers.count if depth < 0 else 0
        return {n for n, at in layers.depth_of.items() if at < depth}, layers.modules[:depth]

    def _layers(self, pl_module: LightningModule) -> Sequence[nn.Module]:
        """Return the layers of the backbone; those of another module are not known."""
        backbone = dict(pl_module.named_modules()).get(self.backbone)
        return tuple(getattr(backbone, "layers", ()))

    def _what(self) -> str:
        if self.function is not None:
            owner = getattr(self.function, "__self__", None)
            name = getattr(self.function, "__name__", "a function")
            return f"by {name if owner is None else type(owner).__name__}"
        return f"below {self.below}" if self.names is None else f"where {' or '.join(self.names)}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the modes; a run resumed in mid-epoch starts no epoch."""
        if self._trainable is not None:
            self._trainable.set_modes()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set them again, whatever has happened between the epochs."""
        self.on_train_start(trainer, pl_module)
