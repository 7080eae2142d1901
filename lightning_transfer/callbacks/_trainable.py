"""What trains: gradients, modes and DDP, changed together."""

from collections.abc import Collection, Iterable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn


class TrainableSet:
    """The parameters of a module that train, and all that follows from it.

    A parameter that does not train takes no gradient and keeps none, so that no optimizer moves
    it, whatever its momentum or weight decay. A module all of whose parameters are frozen is in
    eval mode, one that trains in train mode. DDP averages the gradients of the parameters that it
    found trainable when it wrapped the module, so the module is wrapped anew whenever they change.
    Parameters that took no gradient before this began never take one, and the modes of modules
    that hold nothing else are left alone: whoever froze them knows why.

    Args:
        module: The module that is fitted.
    """

    def __init__(self, module: LightningModule) -> None:
        """See the class."""
        self._module = module
        self._before = {name: p.requires_grad for name, p in module.named_parameters()}

    @property
    def names(self) -> set[str]:
        """Parameters that can train at all."""
        return {name for name, trains in self._before.items() if trains}

    def wake(self) -> None:
        """Put what can train in train mode: ``from_pretrained`` of transformers leaves eval mode.

        Lightning, which keeps what it finds, would warn of it.
        """
        _set_modes(self._module, set())

    def freeze(self, names: Collection[str], modules: Iterable[nn.Module] = ()) -> bool:
        """Let these parameters be frozen, and all others train that can; the modes come later.

        Args:
            names: As in ``named_parameters()``.
            modules: In eval mode with them, such as layers that have buffers and no parameters.

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
        self._names, self._modules = set(names), list(modules)
        return changed

    def set_modes(self) -> None:
        """Put frozen modules in eval mode and the others in train mode."""
        parameters = dict(self._module.named_parameters())
        frozen = {id(parameters[name]) for name in self._names if self._before.get(name)}
        _set_modes(self._module, frozen)
        for module in self._modules:
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()

    def restore(self) -> None:
        """Let everything take a gradient again that did before."""
        for name, parameter in self._module.named_parameters():
            parameter.requires_grad_(self._before.get(name, parameter.requires_grad))


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
    return f"{trains:,} of {total:,} parameters"


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
