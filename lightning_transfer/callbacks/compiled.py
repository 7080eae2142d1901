"""Compilation of the backbone with ``torch.compile``."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch._dynamo.exc import TorchDynamoException

log = logging.getLogger(__name__)


class Compiled(Callback):
    """Compile the backbone with ``torch.compile`` during the training.

    Parameter names, weights and checkpoints do not change, and after the run the backbone is
    restored. If the compilation fails, for example without a C++ compiler, the run continues
    without it and logs a warning.

    On a CPU, compilation does not pay off for models such as MiniLM: the first step takes a
    minute, and the others take as long as without it. A compiled backbone uses torch's dropout and
    attention, not the optimised CPU code of this package.

    Args:
        backend: Backend of ``torch.compile``.
        dynamic: True to compile once for batches of all lengths; None to let torch choose.
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
        """Replace the backbone's call; torch compiles at the first batch."""
        module = pl_module.get_submodule(self.backbone)
        compiled = torch.compile(module._call_impl, backend=self.backend, dynamic=self.dynamic)

        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return compiled(*args, **kwargs)
            except (TorchDynamoException, ImportError) as error:
                module._compiled_call_impl = None
                log.warning(
                    "torch.compile failed, so the run continues without it: %s",
                    # The first line contains only the name of the backend.
                    " ".join(str(error).split("\n")[:2]),
                )
                return module(*args, **kwargs)

        # nn.Module.compile uses this attribute too, and copies and pickles of modules omit it.
        module._compiled_call_impl = run
        self._module = module

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the backbone."""
        if self._module is not None:
            self._module._compiled_call_impl = None
            self._module = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the backbone after a failed run."""
        self.on_fit_end(trainer, pl_module)
