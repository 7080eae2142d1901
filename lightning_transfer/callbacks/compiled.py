"""A backbone that torch compiles."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch._dynamo.exc import TorchDynamoException

log = logging.getLogger(__name__)


class Compiled(Callback):
    """Compile the backbone with ``torch.compile`` while it trains.

    Names, weights and checkpoints stay as they are, and after the run the backbone is what it was.
    Where it cannot be compiled, without a C++ compiler for instance, the run goes on without it,
    and a line says so.

    On a CPU it is not worth it for models like MiniLM: the first step takes a minute, the others
    as long as without it. Dropout and attention are torch's own inside.

    Args:
        backend: Of ``torch.compile``.
        dynamic: Whether one compiled form serves batches of all lengths; None lets torch see.
        backbone: Attribute path of the backbone in the LightningModule.

    Example:
        >>> Compiled(backend="eager").dynamic
        True
    """

    def __init__(
        self, backend: str = "inductor", *, dynamic: bool | None = True, backbone: str = "backbone"
    ) -> None:
        """See the class."""
        super().__init__()
        self.backend = backend
        self.dynamic = dynamic
        self.backbone = backbone
        self._module: nn.Module | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile at the first call."""
        module = pl_module.get_submodule(self.backbone)
        compiled = torch.compile(module._call_impl, backend=self.backend, dynamic=self.dynamic)

        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return compiled(*args, **kwargs)
            except (TorchDynamoException, ImportError) as error:
                module._compiled_call_impl = None
                log.warning(
                    "torch.compile does not work here, so the run goes on without it: %s",
                    " ".join(str(error).split("\n")[:2]),  # the first alone names the backend
                )
                return module(*args, **kwargs)

        # Where nn.Module.compile puts it: copies and pickles leave it out.
        module._compiled_call_impl = run
        self._module = module

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the backbone run as it is again."""
        if self._module is not None:
            self._module._compiled_call_impl = None
            self._module = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let the backbone run as it is again, however the run ended."""
        self.on_fit_end(trainer, pl_module)
