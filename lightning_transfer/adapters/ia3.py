"""IA3: learned scales of keys, values and feed-forward activations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from lightning_transfer.adapters import peft_layers
from lightning_transfer.adapters.adapter import Adapter
from lightning_transfer.adapters.target_modules import Names, plain_names, resolve

_BERT = ("key", "value", "output.dense")
# Targets of architectures missing in peft's own table. The last one is the feed-forward layer,
# scaled at its input.
_SCALED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("camembert", "electra", "layoutlm", "rembert", "xlm-roberta"), _BERT),
    "distilbert": ("k_lin", "v_lin", "lin2"),
    "modernbert": ("Wqkv", "mlp.Wo"),
    "mpnet": ("attn.k", "attn.v", "output.dense"),
}
_SCALED_AT_INPUT = {kind: (names[-1],) for kind, names in _SCALED.items()}


@dataclass(frozen=True, kw_only=True)
class IA3(Adapter):
    """IA3: learned vectors scale keys, values and feed-forward activations.

    Liu et al. 2022 (arXiv:2205.05638), computed by the peft library with its choice of layers.
    Differences: in BERT and similar architectures this choice also scales the input of the
    attention's output layer; in an architecture with query, key and value in one matrix, the query
    is scaled too. The vectors start at one, so that training starts from the base model's output.
    They have no weight decay, which would pull them towards zero.

    Args:
        target_modules: Ends of the names of linear layers, ``all-linear``, or None for keys, values
            and feed-forward layers.
        feedforward_modules: Targets that are scaled at their input instead of their output; None
            for those known for the architecture, or none if ``target_modules`` is given.
        merge: Write merged weights to a model folder; see :class:`LoRA`.

    Raises:
        ValueError: If an argument is not null, ``all-linear`` or a list, or, in :meth:`apply`, if a
            target is unknown or ``feedforward_modules`` is not a subset of the targets.
        ImportError: In :meth:`apply`, if peft is not installed.

    Example:
        >>> IA3(target_modules=["key", "value"]).args["target_modules"]
        ['key', 'value']
    """

    target_modules: Names = None
    feedforward_modules: Names = None
    merge: bool = True

    mergeable: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]] = ("ia3_l",)

    def __post_init__(self) -> None:
        """Convert the names to a hashable form."""
        # A frozen dataclass forbids plain assignment.
        object.__setattr__(self, "target_modules", plain_names(self.target_modules))
        # An empty list is allowed here, unlike for targets: no layer is scaled at its input.
        names = plain_names(self.feedforward_modules or None, "feedforward_modules")
        chosen = () if names is None and self.feedforward_modules is not None else names
        object.__setattr__(self, "feedforward_modules", chosen)

    def inject(self, backbone: nn.Module) -> None:
        """Wrap the target modules; see :class:`Adapter`."""
        peft_layers.inject(backbone, self.peft_config(self.targets(backbone)))

    def targets(self, backbone: nn.Module) -> dict[str, bool]:
        """Return the path of each target module, to True if its input is scaled.

        Raises:
            ValueError: If a target is unknown, or ``feedforward_modules`` is not a subset of the
                targets.
            ImportError: If peft is not installed.
        """
        peft_layers.require_peft("IA3")
        from peft.utils import (
            TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as AT_INPUT,
        )
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

        paths = resolve(backbone, self.target_modules, {**KNOWN, **_SCALED})
        names = self.feedforward_modules
        # The feed-forward layers of the architecture may not be among the given targets.
        if names is None and self.target_modules is not None:
            names = ()
        scaled = resolve(backbone, names, {**AT_INPUT, **_SCALED_AT_INPUT})
        if not set(scaled) <= set(paths):
            raise ValueError(
                "feedforward_modules must be a subset of target_modules, got "
                f"{list(names or ())} and {list(self.target_modules or ())}; add them to "
                "finetuning.adapter.target_modules"
            )
        return {path: path in scaled for path in paths}

    def peft_config(self, targets: Mapping[str, bool]) -> Any:
        """Return the adapter as a config of peft.

        Args:
            targets: Result of :meth:`targets`.
        """
        from peft import IA3Config

        return IA3Config(
            target_modules=list(targets),
            feedforward_modules=[path for path, at_input in targets.items() if at_input],
        )

    def fold(self, backbone: nn.Module) -> None:
        """Multiply the base weights by the scales."""
        peft_layers.fold(backbone)

    def base_name(self, name: str) -> str:
        """Return the name of a base weight without its wrapper."""
        return peft_layers.base_name(name)
