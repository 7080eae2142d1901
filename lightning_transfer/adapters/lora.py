"""LoRA: low-rank updates of linear layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import nn

from lightning_transfer.adapters import peft_layers
from lightning_transfer.adapters.adapter import Adapter
from lightning_transfer.adapters.target_modules import Names, plain_names, resolve

# Query and value layers of architectures missing in peft's own table.
_QUERY_VALUE = {
    "camembert": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
    "layoutlm": ("query", "value"),
    "modernbert": ("Wqkv",),  # query, key and value are one matrix
    "mpnet": ("attn.q", "attn.v"),
    "rembert": ("query", "value"),
}


@dataclass(frozen=True, kw_only=True)
class LoRA(Adapter):
    """LoRA: ``W x`` becomes ``W x + (alpha / r) B A x``, with only A and B trained.

    Hu et al. 2021 (arXiv:2106.09685), computed by the peft library. B starts at zero, so that
    training starts from the base model's output. The default targets are query and value, as in the
    paper; in an architecture with query, key and value in one matrix, all three are adapted.

    Args:
        r: Rank of the update, >= 1.
        alpha: Numerator of the update's factor ``alpha / r``, > 0.
        dropout: Dropout probability on the input of A, in [0, 1).
        target_modules: Ends of the names of linear layers, ``all-linear``, or None for query and
            value.
        merge: Write merged weights to a model folder. If False, the folder contains the base
            weights, and a folder ``adapter`` for ``peft.PeftModel.from_pretrained``.

    Raises:
        ValueError: If a value is out of its range, or, in :meth:`apply`, a target is unknown.
        ImportError: In :meth:`apply`, if peft is not installed.

    Example:
        >>> LoRA(r=4).args["alpha"]
        16.0
        >>> LoRA(r=0)
        Traceback (most recent call last):
        ...
        ValueError: r must be an integer >= 1, got 0; set finetuning.adapter.r=8
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: Names = None
    merge: bool = True

    mergeable: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]] = ("lora_A", "lora_B")

    def __post_init__(self) -> None:
        """Check the values."""
        # bool is a subclass of int.
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise ValueError(
                f"r must be an integer >= 1, got {self.r!r}; set finetuning.adapter.r=8"
            )
        if not self.alpha > 0:
            raise ValueError(
                f"alpha must be > 0, got {self.alpha}; set finetuning.adapter.alpha=16"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"dropout must be in [0, 1), got {self.dropout}; set finetuning.adapter.dropout=0"
            )
        # A frozen dataclass forbids plain assignment.
        object.__setattr__(self, "target_modules", plain_names(self.target_modules))

    def inject(self, backbone: nn.Module) -> None:
        """Wrap the target modules; see :class:`Adapter`."""
        peft_layers.inject(backbone, self.peft_config(self.targets(backbone)))

    def targets(self, backbone: nn.Module) -> dict[str, bool]:
        """Return the paths of the target modules, each with False: no input is scaled, as in IA3.

        Raises:
            ValueError: If a target is unknown.
            ImportError: If peft is not installed.
        """
        peft_layers.require_peft("LoRA")
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

        known = {**KNOWN, **_QUERY_VALUE}
        return dict.fromkeys(resolve(backbone, self.target_modules, known), False)

    def peft_config(self, targets: Mapping[str, bool]) -> Any:
        """Return the adapter as a config of peft.

        Args:
            targets: Result of :meth:`targets`.
        """
        from peft import LoraConfig

        return LoraConfig(
            r=self.r,
            lora_alpha=cast(Any, self.alpha),  # annotated as int, but any number works
            lora_dropout=self.dropout,
            target_modules=list(targets),
        )

    def fold(self, backbone: nn.Module) -> None:
        """Add the updates to the base weights."""
        peft_layers.fold(backbone)

    def base_name(self, name: str) -> str:
        """Return the name of a base weight without its wrapper."""
        return peft_layers.base_name(name)
