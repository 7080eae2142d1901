"""Which layers are frozen from the input up, and what their output depends on."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Prefix:
    """The layers of a backbone from the input up, asked before each batch.

    Args:
        layers: In order, the embeddings first; the modules in them are looked up once.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """See the class."""
        self._layers = list(layers)
        self._modules = [list(layer.modules()) for layer in layers]
        self._parameters = [list(layer.parameters()) for layer in layers]
        self._tensors = [[*layer.parameters(), *layer.buffers()] for layer in layers]

    def frozen(self, *, training: bool) -> int:
        """Return how many of the lowest layers take no gradient.

        Args:
            training: Whether they must be in eval mode too: what dropout lets through differs
                each time.
        """
        for depth, parameters in enumerate(self._parameters):
            if any(parameter.requires_grad for parameter in parameters):
                return depth
            if training and any(module.training for module in self._modules[depth]):
                return depth
        return len(self._parameters)

    def versions(self, depth: int) -> tuple[int, ...]:
        """Return numbers that change when a tensor of the layers up to ``depth`` is written to."""
        return tuple(
            number
            for tensors in self._tensors[: depth + 1]
            for tensor in tensors
            for number in (tensor.data_ptr(), tensor._version)
        )

    def fingerprints(self, depth: int) -> list[str]:
        """Return a hash for each depth up to ``depth``: of all that its output depends on.

        These are the weights and buffers of the layers up to there, and the classes and settings
        of their modules, dropout excepted.
        """
        state, found = hashlib.sha256(), []
        for layer in self._layers[: depth + 1]:
            for name, module in layer.named_modules():
                if not isinstance(module, nn.Dropout):
                    kind = type(module)
                    said = f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}"
                    state.update(said.encode())
            for name, tensor in _named_tensors(layer):
                state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                state.update(flat.view(torch.uint8).numpy().data)
            found.append(state.hexdigest())
        return found


def _named_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from layer.named_parameters()
    yield from layer.named_buffers()
