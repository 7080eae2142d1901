"""Train mode and eval mode of modules."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and restore the mode of each submodule on exit.

    Args:
        module: Any module, possibly with some submodules in train mode and others in eval mode.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        # module.train() would put frozen layers in train mode too.
        for part, training in modes:
            part.training = training
