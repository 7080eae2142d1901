"""Trainable parameters of a module: gradients, train and eval mode, and DDP, changed together."""

from collections.abc import Collection, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

# Marks parameters frozen by a callback of this package. The next fit may train them, unlike those
# that the user froze.
_LEFT_FROZEN = "_left_frozen_by_a_fit"


def unfreeze(module: nn.Module) -> None:
    """Unfreeze the parameters that an earlier fit has frozen.

    Call it before the optimizers are built.

    Args:
        module: Module of the earlier fit. Parameters frozen by the user stay frozen.
    """
    for parameter in module.parameters():
        if hasattr(parameter, _LEFT_FROZEN):
            delattr(parameter, _LEFT_FROZEN)
            parameter.requires_grad_(True)


class TrainableSet:
    """The trainable parameters of a module during a fit.

    - A frozen parameter has no gradient, so no optimizer changes it by momentum or weight decay.
    - A module with frozen parameters only is in eval mode, a trainable module in train mode. A
      partly trainable layer is in train mode as a whole, with active dropout.
    - Parameters frozen before the fit stay frozen. A module outside the layers keeps its mode if
      all its parameters were frozen before the fit: the user has chosen the mode.

    Args:
        module: The module to train.
        layers: Submodules with one mode for the whole submodule, such as a backbone's layers.
    """

    def __init__(self, module: LightningModule, layers: Sequence[nn.Module] = ()) -> None:
        """See the class."""
        self._module = module
        self._layers = layers
        self._initial = {name: p.requires_grad for name, p in module.named_parameters()}
        self._frozen: set[str] = set()
        self._frozen_layers: Sequence[nn.Module] = ()

    @property
    def names(self) -> set[str]:
        """Names of the parameters that were trainable at the start of the fit."""
        return {name for name, trains in self._initial.items() if trains}

    def freeze(self, names: Collection[str], layers: Sequence[nn.Module] = ()) -> bool:
        """Freeze these parameters, and make all others in :attr:`names` trainable.

        The modes change at the next :meth:`set_modes`.

        Args:
            names: Parameter names, as in ``named_parameters()``.
            layers: Layers frozen as a whole, with or without parameters.

        Returns:
            True if any ``requires_grad`` changed.
        """
        changed = False
        for name, parameter in self._module.named_parameters():
            trains = self._initial.get(name, False) and name not in names
            changed |= parameter.requires_grad != trains
            parameter.requires_grad_(trains)
            if not trains:
                # Optimizers skip a parameter only if its gradient is None, not if it is zero.
                parameter.grad = None
        self._frozen, self._frozen_layers = set(names), layers
        return changed

    def set_modes(self) -> None:
        """Put frozen modules in eval mode and trainable ones in train mode."""
        # Also if nothing is frozen: from_pretrained of transformers returns a model in eval mode,
        # and Lightning keeps the modes it finds, so dropout would be off.
        parameters = dict(self._module.named_parameters())
        _set_modes(self._module, {id(parameters[name]) for name in self._frozen})
        for layer in self._layers:
            if any(parameter.requires_grad for parameter in layer.parameters()):
                layer.train()
        for layer in self._frozen_layers:
            if not any(parameter.requires_grad for parameter in layer.parameters()):
                layer.eval()

    def release(self) -> None:
        """End the fit: frozen parameters stay frozen, but a later fit may train them."""
        # Lightning's freezing callbacks also leave parameters frozen after a fit.
        for name, parameter in self._module.named_parameters():
            if self._initial.get(name) and not parameter.requires_grad:
                setattr(parameter, _LEFT_FROZEN, True)


def _set_modes(module: nn.Module, frozen: set[int]) -> None:
    parameters = list(module.parameters())
    trains = [parameter.requires_grad for parameter in parameters]
    if all(trains):
        module.train()
    elif any(trains):
        module.training = True  # not train(), which would include the frozen children
        for part in module.children():
            _set_modes(part, frozen)
    elif any(id(parameter) in frozen for parameter in parameters):
        module.eval()


def trainable_summary(module: nn.Module) -> str:
    """Return the number of trainable parameters for a log line: ``5 of 10 parameters (50 %)``."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    trains, total = sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
    return f"{trains:,} of {total:,} parameters ({100 * trains / max(1, total):.2f} %)"


def check_strategy(trainer: Trainer) -> None:
    """Raise if the trainable parameters cannot change during a run of the trainer's strategy.

    Raises:
        ValueError: If the strategy is neither DDP nor for a single device: it shards the
            parameters, or wraps the module in another way.
    """
    if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
        raise ValueError(
            f"{type(trainer.strategy).__name__} fixes the trainable parameters when it wraps the "
            "module, so they cannot change during the run; use trainer.strategy=ddp or a single "
            "device, or freeze for the whole run (callbacks.Freezing)"
        )


def rewrap_ddp(trainer: Trainer) -> None:
    """Wrap the module in DDP again, after a change of the trainable parameters.

    Every rank has to call this at the same step. Without DDP it does nothing.
    """
    # DDP averages the gradients of the parameters that require grad when it wraps a module. Those
    # unfrozen later would not be averaged, without any error, and the ranks would diverge
    # (pytorch-lightning #20340).
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()


class Freezer(Callback):
    """Base class of callbacks that choose the trainable parameters during a fit.

    Parameters frozen by one fit are trainable again in the next.
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__()
        self._trainable: TrainableSet | None = None  # during a fit only

    def check(self, pl_module: LightningModule) -> None:
        """Raise if the arguments do not fit a module, before anything runs.

        Raises:
            ValueError: See the class of the callback.
        """
        raise NotImplementedError(f"{type(self).__name__} must define check()")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Release the parameters after a failed fit."""
        # Lightning calls teardown only after a fit without an exception.
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the parameters, so that later fits may train them."""
        if self._trainable is not None:
            self._trainable.release()
            self._trainable = None
