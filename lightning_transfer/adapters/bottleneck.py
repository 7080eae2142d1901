"""Bottleneck adapters after the sublayers of a transformer."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_transfer.adapters.adapter import Adapter
from lightning_transfer.adapters.target_modules import Names, plain_names, resolve, root_of

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
_BERT = ("attention.output.dense", "output.dense")
_BERT_LIKE = (
    *("bert", "camembert", "deberta", "deberta-v2", "electra", "layoutlm", "rembert", "roberta"),
    "xlm-roberta",
)
# Last linear layers of the attention and of the feed-forward part.
_SUBLAYERS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(_BERT_LIKE, _BERT),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
    "mpnet": ("attention.attn.o", "output.dense"),
}
_CHILD = "bottleneck"


class _Bottleneck(nn.Module):
    """``h + up(act(down(h)))``, the identity at the start of training."""

    def __init__(self, width: int, size: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.act = _ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Adapt features, float (batch, seq, width)."""
        inner = self.dropout(self.act(self.down(hidden)))  # (batch, seq, size)
        return hidden + self.up(inner)  # (batch, seq, width)


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Adapter):
    """Bottleneck adapters: down-projection, activation, up-projection and a skip connection.

    Houlsby et al. 2019 (arXiv:1902.00751) insert one after the attention and one after the
    feed-forward part of each layer, before the layer's own skip connection. Pfeiffer et al. 2020
    (arXiv:2005.00247) find the second one sufficient. Differences: the up-projection starts at zero
    instead of near it, so that training starts from exactly the base model's output; the layer
    norms, trained by Houlsby et al., stay frozen; and with ``ffn`` the adapter is before the layer
    norm, by Pfeiffer et al. after it. The adapters cannot be merged: a model folder has a separate
    file for them, which plain transformers does not read.

    Args:
        size: Width of the bottleneck, >= 1.
        placement: ``attention+ffn`` (Houlsby) or ``ffn`` (Pfeiffer).
        activation: ``gelu``, ``relu``, ``silu`` or ``tanh``.
        dropout: Dropout probability inside the bottleneck, in [0, 1).
        target_modules: Ends of the names of linear layers to insert adapters after, or
            ``all-linear``; None for the layers of ``placement``.

    Raises:
        ValueError: If a value is unknown or out of its range, or, in :meth:`apply`, a target is
            unknown.

    Example:
        >>> Bottleneck(size=16, placement="ffn").args["activation"]
        'gelu'
    """

    size: int = 64
    placement: str = "attention+ffn"
    activation: str = "gelu"
    dropout: float = 0.0
    target_modules: Names = None

    parts: ClassVar[tuple[str, ...]] = (_CHILD,)

    def __post_init__(self) -> None:
        """Check the values."""
        # bool is a subclass of int.
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(
                f"size must be an integer >= 1, got {self.size!r}; set finetuning.adapter.size=64"
            )
        if self.placement not in ("attention+ffn", "ffn"):
            raise ValueError(
                f"placement must be one of attention+ffn, ffn, got {self.placement!r}; "
                "set finetuning.adapter.placement=ffn"
            )
        if self.activation not in _ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(_ACTIVATIONS)}, got {self.activation!r}; "
                "set finetuning.adapter.activation=gelu"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"dropout must be in [0, 1), got {self.dropout}; set finetuning.adapter.dropout=0"
            )
        # A frozen dataclass forbids plain assignment.
        object.__setattr__(self, "target_modules", plain_names(self.target_modules))

    def inject(self, backbone: nn.Module) -> None:
        """Insert an adapter after each target module; see :class:`Adapter`."""
        wanted = slice(None) if self.placement == "attention+ffn" else slice(1, None)
        known = {kind: names[wanted] for kind, names in _SUBLAYERS.items()}
        paths = resolve(backbone, self.target_modules, known)
        if self.target_modules is None and self.placement == "ffn":
            # `output.dense` is also the end of the attention's path.
            paths = [path for path in paths if not path.endswith(".attention.output.dense")]
        for path in paths:
            linear = root_of(backbone).get_submodule(path)
            assert isinstance(linear, nn.Linear)  # resolve returns only linear layers
            child = _Bottleneck(linear.out_features, self.size, self.activation, self.dropout)
            # A child called by a hook, not a wrapper: base weights keep their names.
            linear.add_module(_CHILD, child.to(linear.weight))
            linear.register_forward_hook(_call_child)


def _call_child(linear: nn.Module, _: Any, output: Tensor) -> Tensor:
    return linear.get_submodule(_CHILD)(output)
