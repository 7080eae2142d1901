"""Learned scales of keys, values and feed-forward activations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from lightning_transfer.adapters import peft_layers
from lightning_transfer.adapters.adapter import Adapter
from lightning_transfer.adapters.target_modules import Names, plain_names, resolve

_BERT = ("key", "value", "output.dense")
# Targets, and those of them that are scaled at their input, where peft has no entry of its own.
_SCALED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("camembert", "electra", "layoutlm", "rembert", "xlm-roberta"), _BERT),
    "distilbert": ("k_lin", "v_lin", "lin2"),
    "modernbert": ("Wqkv", "mlp.Wo"),
    "mpnet": ("attn.k", "attn.v", "output.dense"),
}
_AT_THE_INPUT = {kind: (names[-1],) for kind, names in _SCALED.items()}


@dataclass(frozen=True, kw_only=True)
class IA3(Adapter):
    """IA3: keys, values and feed-forward activations times learned vectors, all else frozen.

    Liu et al. 2022 (arXiv:2205.05638), through the peft library and with its choice of layers. In
    BERT and its like that choice also scales the input of the attention's output layer, which the
    paper leaves alone; where query, key and value are one matrix, the query is scaled too. The
    vectors start at one, so that training starts from the base model's output, and take no weight
    decay, which would pull them to zero.

    Args:
        target_modules: Ends of the names of linear layers to scale, ``all-linear``, or None: the
            architecture's keys, values and feed-forward layers.
        feedforward_modules: Those of them that are scaled at their input instead of their output;
            None: as known for the architecture, or none if ``target_modules`` is given.
        merge: See :class:`LoRA`.

    Raises:
        ValueError: If ``feedforward_modules`` names what is no target (when it is applied).
        ImportError: If peft is not installed (when it is applied).

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
        """Bring the names into one form."""
        object.__setattr__(self, "target_modules", plain_names(self.target_modules))
        # An empty list is a choice here: nothing is scaled at its input.
        names = plain_names(self.feedforward_modules or None, "feedforward_modules")
        chosen = () if names is None and self.feedforward_modules is not None else names
        object.__setattr__(self, "feedforward_modules", chosen)

    def inject(self, backbone: nn.Module) -> None:
        """Wrap the target modules; see :class:`Adapter`."""
        peft_layers.inject(backbone, self.peft_config(self.targets(backbone)))

    def targets(self, backbone: nn.Module) -> dict[str, bool]:
        """Return the paths of the modules that are scaled, and whether it is at their input."""
        peft_layers.need_peft("IA3")
        from peft.utils import (
            TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as INPUT,
        )
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

        paths = resolve(backbone, self.target_modules, {**KNOWN, **_SCALED})
        names = self.feedforward_modules
        if names is None and self.target_modules is not None:
            names = ()
        scaled = resolve(backbone, names, {**INPUT, **_AT_THE_INPUT})
        if not set(scaled) <= set(paths):
            raise ValueError(
                f"feedforward_modules must be among target_modules, got {list(names or ())} and "
                f"{list(self.target_modules or ())}; set finetuning.adapter.target_modules"
            )
        return {path: path in scaled for path in paths}

    def peft_config(self, targets: Mapping[str, bool]) -> Any:
        """Return peft's form of this adapter for modules at these paths."""
        from peft import IA3Config

        return IA3Config(
            target_modules=list(targets),
            feedforward_modules=[path for path, at_the_input in targets.items() if at_the_input],
        )

    def fold(self, backbone: nn.Module) -> None:
        """Multiply the base weights by the scales."""
        peft_layers.fold(backbone)

    def base_name(self, name: str) -> str:
        """Return a base weight's name without its wrapper."""
        return peft_layers.base_name(name)
