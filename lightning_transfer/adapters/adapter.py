"""What all adapters share: applied once, the base weights frozen, merged where they can be."""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

# Where a backbone says which adapter it holds; a checkpoint describes what it finds there.
APPLIED = "applied_adapter"


class Adapter(ABC):
    """New weights inside a backbone that train while the backbone's own are frozen.

    A subclass is a frozen dataclass of plain values: these are what a checkpoint says of it. The
    new modules stand inside the layers that they change, so that depths, layer-wise learning rates
    and replayed activations go on as before. The head is outside of the backbone, and trains.

    In a script of your own: ``LoRA().apply(backbone)`` once the weights to start from are in it,
    and for the Trainer the callback ``FrozenModes``, which turns off the dropout of what is frozen.
    """

    mergeable: ClassVar[bool] = False
    """Whether the trained weights can be added to the base weights without changing the output."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the modules or parameters that belong to the adapter."""
    merge: bool = False
    """Whether a model folder holds merged weights."""

    @abstractmethod
    def inject(self, backbone: nn.Module) -> None:
        """Put the new modules into a backbone, in place.

        Raises:
            ValueError: If the backbone has no place for them; nothing has changed then.
        """

    def fold(self, backbone: nn.Module) -> None:
        """Add what was learned to the base weights and take the new modules out, in place."""
        raise NotImplementedError

    @property
    def args(self) -> dict[str, Any]:
        """Plain values that build an equal adapter."""
        found = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}

    def owns(self, name: str) -> bool:
        """Whether a parameter of that name belongs to the adapter and not to the backbone."""
        return any(part in self.parts for part in name.split("."))

    def freezes(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether a parameter of a task is frozen: those of its backbone that are not ours."""
        return name.startswith("backbone.") and not self.owns(name)

    def base_name(self, name: str) -> str:
        """Return what a base weight is called where there is no adapter."""
        return name

    def apply(self, backbone: nn.Module) -> None:
        """Put the adapter into a backbone, in place; nothing else of the backbone trains.

        The output changes by nothing until the first step, but for prefix tuning.

        Args:
            backbone: Holds the weights to start from; has ``layers``.

        Raises:
            ValueError: If it holds an adapter already, or has no place for this one.
            ImportError: If peft is needed and is not installed.
        """
        present = applied(backbone)
        if present is not None:
            raise ValueError(
                f"the backbone holds {name_of(present)} already, so {name_of(self)} cannot be "
                "applied; merge it first, or load the backbone anew"
            )
        self.inject(backbone)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(self.owns(name))
        setattr(backbone, APPLIED, self)


def applied(backbone: nn.Module) -> Adapter | None:
    """Return the adapter that a backbone holds."""
    return getattr(backbone, APPLIED, None)


def name_of(adapter: Adapter) -> str:
    """Return what an adapter is called in messages."""
    return type(adapter).__name__


def merge(backbone: nn.Module) -> None:
    """Merge the adapter of a backbone into its base weights, in place; all of them train again.

    Args:
        backbone: Its output stays the same but for rounding (1e-5 in float32).

    Raises:
        ValueError: If it holds no adapter, or one that cannot be merged.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from lightning_transfer.adapters import LoRA
        >>> from lightning_transfer.backbones import Backbone
        >>> backbone = Backbone(BertModel(BertConfig(
        ...     vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        ...     intermediate_size=8)))
        >>> LoRA(r=2).apply(backbone)
        >>> sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        128
        >>> merge(backbone)
        >>> all(p.requires_grad for p in backbone.parameters())
        True
    """
    adapter = applied(backbone)
    if adapter is None:
        raise ValueError("the backbone holds no adapter, so there is nothing to merge")
    if not adapter.mergeable:
        raise ValueError(
            f"{name_of(adapter)} cannot be merged: it computes what no base weight computes; "
            "LoRA and IA3 can"
        )
    adapter.fold(backbone)
    backbone.requires_grad_(True)
    delattr(backbone, APPLIED)
