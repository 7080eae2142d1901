"""How documents become rows."""

from dataclasses import dataclass
from typing import Literal, get_args

Form = Literal["packed", "cut", "pairs"]


@dataclass(frozen=True)
class BlockSpec:
    """Length of the rows, and how documents fill them.

    Args:
        length: Tokens per row at most, special ones included.
        packing: ``packed``: documents end to end, every row full; ``cut``: a row begins with each
            document; ``pairs``: two parts a row, for next-sentence prediction.

    Raises:
        ValueError: If a value is out of range or unknown.
    """

    length: int = 128
    packing: Form = "packed"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.length < 1:
            raise ValueError(f"blocks.length must be >= 1, got {self.length}")
        if self.packing not in get_args(Form):
            raise ValueError(
                f"blocks.packing must be one of {', '.join(get_args(Form))}, got {self.packing!r}"
            )
