"""Partial forward passes: start above a depth with known hidden states, or stop at a depth."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class _StopForward(Exception):
    """Leaves a model's forward pass after the last requested hidden states."""


@dataclass(frozen=True)
class PartialForward:
    """Stack of layers, with context managers that run a part of it.

    The model's own forward pass runs, with known outputs in place of its lower layers or with a
    stop below its upper layers. Masks and final norms are therefore the model's own, and a partial
    forward pass gives exactly the values of a full one. Depth 0 is the output of the embeddings,
    and depth k is the output of layer k - 1, each exactly as the next layer reads it.

    Args:
        layers: Layers in order from the input.
        embeddings: Modules between the token ids and the lowest layer, in forward order.
        positions: Modules whose output is added to the token embeddings.
        last: Module with the output of the highest depth; the last layer by default. For an
            encoder-decoder it is the encoder: its decoder reads the output after the final norm.
    """

    layers: Sequence[nn.Module]
    embeddings: Sequence[nn.Module]
    positions: Sequence[nn.Module] = ()
    last: nn.Module | None = None

    @property
    def max_depth(self) -> int:
        """Depth of the last layer's output."""
        return len(self.layers)

    def tuple_size(self, run: Callable[[], Any]) -> int:
        """Return the length of the tuples returned by the layers, or 0 for plain tensors.

        Args:
            run: Runs the model on any batch.
        """
        seen: list[Any] = []
        hook = self.layers[-1].register_forward_hook(lambda *call: seen.append(call[-1]))
        try:
            run()
        finally:
            hook.remove()
        return len(seen[0]) if isinstance(seen[0], tuple) else 0

    @contextmanager
    def starting_from(self, depth: int, hidden: Tensor, *, tuple_size: int) -> Iterator[None]:
        """Make forward passes use ``hidden`` as the output of ``depth``, and skip all below.

        Args:
            depth: Depth of ``hidden``, in 0..``max_depth``.
            hidden: Output of that depth, float (batch, seq, hidden).
            tuple_size: Result of :meth:`tuple_size`.
        """
        output = (
            (hidden, *_other_outputs(self.layers[0], hidden, tuple_size - 1))
            if tuple_size
            else hidden
        )
        known: list[tuple[nn.Module, Any]] = [
            *((module, hidden) for module in self.embeddings),
            # A scalar zero leaves the sum with the token embeddings unchanged.
            *((module, hidden.new_zeros(())) for module in self.positions),
            *((layer, output) for layer in self.layers[:depth]),
        ]
        hook = None
        if depth < self.max_depth:
            # Modules between two layers still run on `hidden`, such as DeBERTa's convolution after
            # layer 0. The next layer gets the known hidden states regardless of their output.
            hook = self.layers[depth].register_forward_pre_hook(
                lambda _, arguments: (hidden, *arguments[1:])
            )
        try:
            for module, value in known:
                # In the instance's __dict__, where it precedes the method of the class.
                module.forward = partial(_return, value)
            yield
        finally:
            for module, _ in known:
                module.__dict__.pop("forward", None)
            if hook is not None:
                hook.remove()

    @contextmanager
    def collecting(self, depths: Collection[int]) -> Iterator[dict[int, Tensor]]:
        """Make a forward pass fill a mapping with the outputs of some depths, then stop it.

        Nothing above the highest of these depths runs. The body of the ``with`` statement ends
        there too, without an error.

        Args:
            depths: Depths to collect, each in 0..``max_depth``, at least one.

        Yields:
            Depth to hidden states, float (batch, seq, hidden); empty before the forward pass.
        """
        outputs: dict[int, Tensor] = {}
        highest = max(depths)

        def collect(depth: int, hidden: Tensor) -> None:
            outputs[depth] = hidden
            if depth == highest:
                raise _StopForward

        # The input of layer k is the output of depth k, with anything between two layers included.
        hooks = [
            self.layers[depth].register_forward_pre_hook(
                lambda _, args, kwargs, depth=depth: collect(depth, _hidden_states(args, kwargs)),
                with_kwargs=True,
            )
            for depth in set(depths) - {self.max_depth}
        ]
        if highest == self.max_depth:
            last = self.layers[-1] if self.last is None else self.last
            hooks.append(
                last.register_forward_hook(
                    lambda _, args, output: collect(
                        highest, output if torch.is_tensor(output) else output[0]
                    )
                )
            )
        try:
            yield outputs
        except _StopForward:
            pass
        finally:
            for hook in hooks:
                hook.remove()


def _other_outputs(lowest: nn.Module, hidden: Tensor, count: int) -> list[Tensor | None]:
    """Return the outputs of a layer besides its hidden states, as far as the next layer needs them.

    Args:
        lowest: Lowest layer.
        hidden: Float (batch, seq, hidden).
        count: Number of other outputs.
    """
    rest: list[Tensor | None] = [None] * count
    for module in lowest.modules():
        # T5 computes the bias of relative positions in its lowest layer, and passes it on from
        # layer to layer. It depends on the length and on weights of the lowest layer only.
        if count and getattr(module, "has_relative_attention_bias", False):
            length = hidden.shape[1]
            rest[0] = module.compute_bias(length, length, device=hidden.device)  # type: ignore
            break  # (1, heads, seq, seq)
    return rest


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states among a layer's arguments."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _return(value: Any, *_: Any, **__: Any) -> Any:
    return value
