"""Frozen prefix: the frozen layers of a backbone from the input up."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class FrozenPrefix:
    """Number and fingerprints of the frozen layers of a backbone, from the input up.

    Args:
        layers: Layers in order, the embeddings first. Modules added later are ignored.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """See the class."""
        # Collected once: walking the modules before each batch would take too long.
        self._layers = list(layers)
        self._modules = [list(layer.modules()) for layer in layers]
        self._parameters = [list(layer.parameters()) for layer in layers]
        self._tensors = [[*layer.parameters(), *layer.buffers()] for layer in layers]

    def frozen(self, *, training: bool) -> int:
        """Return the number of frozen layers at the bottom.

        Args:
            training: True to count a layer only if it is in eval mode too.
        """
        # With active dropout the output differs in each pass, so it cannot be stored.
        for depth, parameters in enumerate(self._parameters):
            if any(parameter.requires_grad for parameter in parameters):
                return depth
            if training and any(module.training for module in self._modules[depth]):
                return depth
        return len(self._parameters)

    def versions(self, depth: int) -> tuple[int, ...]:
        """Return numbers that change with any tensor of the layers up to ``depth``."""
        # Cheap enough for each batch, unlike a hash of the weights. torch increases _version at
        # each write in place; a replaced tensor has another address.
        return tuple(
            number
            for tensors in self._tensors[: depth + 1]
            for tensor in tensors
            for number in (tensor.data_ptr(), tensor._version)
        )

    def fingerprints(self, depth: int) -> list[str]:
        """Return a hash of each depth up to ``depth``.

        It covers the weights and buffers of the layers up to the depth, and the classes and
        settings of their modules.
        """
        state, found = hashlib.sha256(), []
        for layer in self._layers[: depth + 1]:
            for name, module in layer.named_modules():
                if not isinstance(module, nn.Dropout):  # without effect in eval mode
                    kind = type(module)
                    settings = f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}"
                    state.update(settings.encode())
            for name, tensor in _named_tensors(layer):
                state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                state.update(flat.view(torch.uint8).numpy().data)
            found.append(state.hexdigest())
        return found


def _named_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from layer.named_parameters()
    yield from layer.named_buffers()
