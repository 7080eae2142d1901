"""A stack of layers run from the middle, or no further than asked for."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class _Enough(Exception):
    """Raised inside a model, once all that was asked for has been seen."""


@dataclass(frozen=True)
class Stack:
    """The layers of a model from the input up, with means to run a part of them.

    The model's own forward runs, with known outputs in place of its lower layers or a stop below
    its upper ones. Masks and final norms so stay its business, and a replay is exact with next to
    nothing of architecture here. Depth 0 is the output of the embeddings, depth k that of layer
    k - 1, each just what the layer above is fed with.

    Args:
        layers: The layers.
        embeddings: Modules through which the tokens come to the lowest layer.
        positions: Modules whose output is added to one of them.
        last: The module whose output is that of the highest depth; the last layer by default. The
            decoder of an encoder-decoder is fed with the whole encoder's, norms included.
    """

    layers: Sequence[nn.Module]
    embeddings: Sequence[nn.Module]
    positions: Sequence[nn.Module] = ()
    last: nn.Module | None = None

    @property
    def top(self) -> int:
        """The depth of the last layer's output."""
        return len(self.layers)

    def entries(self, run: Callable[[], Any]) -> int:
        """Return how long a tuple the layers give, 0 for a bare tensor.

        Args:
            run: Runs the model on some batch, a short one.
        """
        seen: list[Any] = []
        hook = self.layers[-1].register_forward_hook(lambda *call: seen.append(call[-1]))
        try:
            run()
        finally:
            hook.remove()
        return len(seen[0]) if isinstance(seen[0], tuple) else 0

    @contextmanager
    def replaying(self, depth: int, hidden: Tensor, *, entries: int) -> Iterator[None]:
        """Let a forward pass take ``hidden`` as the output of ``depth``; nothing below runs.

        Args:
            depth: In 0..``top``.
            hidden: Its output, float (batch, seq, hidden).
            entries: How long a tuple the layers give, as from :meth:`entries`.
        """
        output = (hidden, *_beside(self.layers[0], hidden, entries - 1)) if entries else hidden
        known: list[tuple[nn.Module, Any]] = [
            *((module, hidden) for module in self.embeddings),
            *((module, hidden.new_zeros(())) for module in self.positions),
            *((layer, output) for layer in self.layers[:depth]),
        ]
        hook = None
        if depth < self.top:  # DeBERTa's convolution stands between layers, not in one
            hook = self.layers[depth].register_forward_pre_hook(
                lambda _, arguments: (hidden, *arguments[1:])
            )
        try:
            for module, value in known:
                module.forward = partial(_return, value)
            yield
        finally:
            for module, _ in known:
                module.__dict__.pop("forward", None)
            if hook is not None:
                hook.remove()

    @contextmanager
    def collecting(self, depths: Collection[int]) -> Iterator[dict[int, Tensor]]:
        """Let a forward pass fill a mapping with the outputs of these depths, and end there.

        Nothing above the highest of them runs; the statement that runs the model is left at once.

        Args:
            depths: Each in 0..``top``, at least one.
        """
        outputs: dict[int, Tensor] = {}
        highest = max(depths)

        def keep(depth: int, hidden: Tensor) -> None:
            outputs[depth] = hidden
            if depth == highest:
                raise _Enough

        hooks = [
            self.layers[depth].register_forward_pre_hook(
                lambda _, args, kwargs, depth=depth: keep(depth, _first(args, kwargs)),
                with_kwargs=True,
            )
            for depth in set(depths) - {self.top}
        ]
        if highest == self.top:
            last = self.layers[-1] if self.last is None else self.last
            hooks.append(
                last.register_forward_hook(
                    lambda _, args, output: keep(
                        highest, output if torch.is_tensor(output) else output[0]
                    )
                )
            )
        try:
            yield outputs
        except _Enough:
            pass
        finally:
            for hook in hooks:
                hook.remove()


def _beside(lowest: nn.Module, hidden: Tensor, count: int) -> list[Tensor | None]:
    """Return what the layers hand on beside hidden states, as their neighbours above use it.

    T5 computes the bias of relative positions in its lowest layer alone, and the others take it
    from there; it depends on the length, and on weights of that layer.
    """
    rest: list[Tensor | None] = [None] * count
    for module in lowest.modules():
        if count and getattr(module, "has_relative_attention_bias", False):
            length = hidden.shape[1]
            rest[0] = module.compute_bias(length, length, device=hidden.device)  # type: ignore
            break  # (1, heads, seq, seq)
    return rest


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states out of a layer's arguments."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _return(value: Any, *_: Any, **__: Any) -> Any:
    return value
