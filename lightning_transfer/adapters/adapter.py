"""Base class of adapters: application to a backbone, freezing and merging."""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

# Attribute of a backbone with its adapter. Checkpoints read it by this name.
APPLIED = "applied_adapter"


class Adapter(ABC):
    """New weights inside a backbone, trained while its base weights are frozen.

    A subclass is a frozen dataclass of plain values, which a checkpoint stores. Its new modules are
    inside the layers of the backbone, so that depths, layer decay and the activation cache work
    without change. The head is outside of the backbone and is trained as well.

    In a script, first load the initial weights into the backbone, then call
    ``LoRA().apply(backbone)``, and pass the callback ``FrozenModes`` to the Trainer. It puts frozen
    modules in eval mode, which turns off their dropout.
    """

    mergeable: ClassVar[bool] = False
    """True if the trained weights can be merged into the base weights with the same output."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the modules or parameters of the adapter."""
    merge: bool = False
    """True to write merged weights to a model folder."""

    @abstractmethod
    def inject(self, backbone: nn.Module) -> None:
        """Insert the new modules into a backbone, in place.

        Raises:
            ValueError: If the backbone has no module to adapt; it is then unchanged.
        """

    def fold(self, backbone: nn.Module) -> None:
        """Merge the trained weights into the base weights and remove the new modules, in place.

        Raises:
            NotImplementedError: If the adapter is not mergeable.
        """
        raise NotImplementedError

    @property
    def args(self) -> dict[str, Any]:
        """Constructor arguments of an equal adapter, as plain values."""
        found = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}

    def owns(self, name: str) -> bool:
        """Return True if a parameter name belongs to the adapter, False for a base weight."""
        return any(part in self.parts for part in name.split("."))

    def freezes(self, name: str, parameter: nn.Parameter) -> bool:
        """Return True for the base weights of a backbone, by the names of a task's parameters."""
        return name.startswith("backbone.") and not self.owns(name)

    def base_name(self, name: str) -> str:
        """Return the name of a base weight in a backbone without an adapter."""
        return name

    def apply(self, backbone: nn.Module) -> None:
        """Insert the adapter into a backbone and freeze the base weights, in place.

        Except for prefix tuning, the output is unchanged until the first training step.

        Args:
            backbone: Backbone with the initial weights; has ``layers``.

        Raises:
            ValueError: If the backbone already has an adapter, or no module to adapt.
            ImportError: If peft is required and not installed.
        """
        present = applied(backbone)
        if present is not None:
            raise ValueError(
                f"the backbone already has {name_of(present)}, so {name_of(self)} cannot be "
                "applied; call merge(backbone) first, or load the backbone again"
            )
        self.inject(backbone)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(self.owns(name))
        setattr(backbone, APPLIED, self)


def applied(backbone: nn.Module) -> Adapter | None:
    """Return the adapter of a backbone, or None."""
    return getattr(backbone, APPLIED, None)


def name_of(adapter: Adapter) -> str:
    """Return the name of an adapter in messages."""
    return type(adapter).__name__


def merge(backbone: nn.Module) -> None:
    """Merge the adapter of a backbone into its base weights in place, and unfreeze all weights.

    Args:
        backbone: Backbone with an adapter. Its output changes only by rounding (1e-5 in float32).

    Raises:
        ValueError: If it has no adapter, or one that is not mergeable.

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
        raise ValueError("the backbone has no adapter, so there is nothing to merge")
    if not adapter.mergeable:
        raise ValueError(
            f"{name_of(adapter)} cannot be merged, because its output is not a function of base "
            "weights; mergeable adapters are LoRA and IA3"
        )
    adapter.fold(backbone)
    backbone.requires_grad_(True)
    delattr(backbone, APPLIED)
