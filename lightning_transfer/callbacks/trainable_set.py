"""What trains: gradients, modes and DDP, changed together."""

from collections.abc import Collection, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

_LEFT_FROZEN = "_left_frozen_by_a_fit"  # on a parameter; the next fit may train it


def thaw(module: nn.Module) -> None:
    """Undo what an earlier fit has left frozen, before optimizers are made."""
    for parameter in module.parameters():
        if hasattr(parameter, _LEFT_FROZEN):
            delattr(parameter, _LEFT_FROZEN)
            parameter.requires_grad_(True)


class TrainableSet:
    """The parameters of a module that train, and all that follows from it.

    A parameter that does not train takes no gradient and keeps none, so that no optimizer moves
    it, whatever its momentum or weight decay. A module all of whose parameters are frozen is in
    eval mode, one that trains in train mode; a layer that trains in part does so as a whole, with
    its dropout on. DDP averages the gradients of the parameters that it found trainable when it
    wrapped the module, so the module is wrapped anew whenever they change. Parameters that took no
    gradient before the fit began never take one, and what lies outside the layers and holds nothing
    else keeps its mode: whoever froze it knows why.

    Args:
        module: The module that is fitted.
        layers: Parts of it that are in one mode each, such as a backbone's layers.
    """

    def __init__(self, module: LightningModule, layers: Sequence[nn.Module] = ()) -> None:
        """See the class."""
        self._module = module
        self._layers = layers
        self._before = {name: p.requires_grad for name, p in module.named_parameters()}
        self._frozen: set[str] = set()
        self._frozen_layers: Sequence[nn.Module] = ()

    @property
    def names(self) -> set[str]:
        """Parameters that can train at all."""
        return {name for name, trains in self._before.items() if trains}

    def freeze(self, names: Collection[str], layers: Sequence[nn.Module] = ()) -> bool:
        """Let these parameters be frozen, and all others train that can; the modes come later.

        Args:
            names: As in ``named_parameters()``.
            layers: Those that are frozen as a whole, whether they have parameters or not.

        Returns:
            Whether anything changed.
        """
        changed = False
        for name, parameter in self._module.named_parameters():
            trains = self._before.get(name, False) and name not in names
            changed |= parameter.requires_grad != trains
            parameter.requires_grad_(trains)
            if not trains:
                parameter.grad = None
        self._frozen, self._frozen_layers = set(names), layers
        return changed

    def set_modes(self) -> None:
        """Put frozen modules in eval mode and the others in train mode.

        Before anything is frozen this undoes the eval mode that ``from_pretrained`` of
        transformers leaves, of which Lightning, which keeps what it finds, would warn.
        """
        parameters = dict(self._module.named_parameters())
        _set_modes(self._module, {id(parameters[name]) for name in self._frozen})
        for layer in self._layers:
            if any(parameter.requires_grad for parameter in layer.parameters()):
                layer.train()
        for layer in self._frozen_layers:
            if not any(parameter.requires_grad for parameter in layer.parameters()):
                layer.eval()

    def release(self) -> None:
        """End the fit: what is frozen stays so, as ever in Lightning, and binds no later fit."""
        for name, parameter in self._module.named_parameters():
            if self._before.get(name) and not parameter.requires_grad:
                setattr(parameter, _LEFT_FROZEN, True)


def _set_modes(module: nn.Module, frozen: set[int]) -> None:
    parameters = list(module.parameters())
    trains = [parameter.requires_grad for parameter in parameters]
    if all(trains):
        module.train()
    elif any(trains):
        module.training = True  # and no more than that: its parts differ
        for part in module.children():
            _set_modes(part, frozen)
    elif any(id(parameter) in frozen for parameter in parameters):
        module.eval()


def count_line(module: nn.Module) -> str:
    """Say how many of a module's parameters train."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    trains, total = sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
    return f"{trains:,} of {total:,} parameters ({100 * trains / max(1, total):.2f} %)"


def check_strategy(trainer: Trainer) -> None:
    """Refuse a strategy under which the trainable parameters cannot change.

    Raises:
        ValueError: If it shards the parameters, or wraps the module in a way of its own.
    """
    if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
        raise ValueError(
            f"{type(trainer.strategy).__name__} fixes what trains when it wraps the module, so "
            "nothing can be unfrozen in mid-run; use strategy=ddp or a single device, or freeze "
            "for the whole run (Freezing)"
        )


def wrap_again(trainer: Trainer) -> None:
    """Let DDP see what trains now; every rank has to call this at the same step.

    DDP registers the parameters that require a gradient when it wraps a module. Those unfrozen
    later would never be averaged, silently, and the ranks would part (pytorch-lightning #20340).
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()


class Freezer(Callback):
    """A callback that decides which parameters train during a fit.

    Its ``check`` tells mistakes before anything runs. What it leaves frozen binds no later fit.
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__()
        self._trainable: TrainableSet | None = None  # during a fit

    def check(self, pl_module: LightningModule) -> None:
        """Raise what is wrong with the arguments for a module.

        Raises:
            ValueError: As the class says.
        """
        raise NotImplementedError(f"{type(self).__name__} must define check()")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let later fits train what this one has left frozen."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let later fits train what this one has left frozen."""
        if self._trainable is not None:
            self._trainable.release()
            self._trainable = None
