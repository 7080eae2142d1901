"""Head of a causal language model."""

from typing import Any

from torch import Tensor, nn


class NextTokenHead(nn.Module):
    """Logits of the next token by the product with the token embeddings, as in GPT-2.

    The head has no weights. It is tied to the token embeddings of the backbone, an argument of
    :meth:`tokens` (Press & Wolf, Using the Output Embedding to Improve Language Models,
    arXiv:1608.05859).

    Args:
        hidden_size: Width of the backbone's features.
        num_outputs: Must be 0, because there are no labels besides the tokens.
        vocabulary: Rows and width of the token embeddings.

    Raises:
        ValueError: If ``num_outputs`` is not 0, or features and embeddings differ in width.

    Example:
        >>> head = NextTokenHead(8, 0, vocabulary=(30, 8))
        >>> import torch
        >>> head.tokens(torch.ones(3, 8), torch.ones(30, 8)).shape
        torch.Size([3, 30])
    """

    def __init__(self, hidden_size: int, num_outputs: int, *, vocabulary: tuple[int, int]) -> None:
        """See the class."""
        super().__init__()
        if num_outputs != 0:
            raise ValueError(
                f"NextTokenHead predicts tokens only, so num_outputs must be 0, got {num_outputs}; "
                "use data of raw text with pretraining=causal"
            )
        if hidden_size != vocabulary[1]:
            raise ValueError(
                "features and token embeddings must have the same width, got "
                f"{hidden_size} and {vocabulary[1]}; choose another backbone"
            )

    @property
    def args(self) -> dict[str, Any]:
        """Constructor arguments besides the sizes; empty."""
        return {}

    def tokens(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Map features to logits over the vocabulary.

        Args:
            hidden: Features at any positions, float (positions, hidden).
            table: Token embeddings, float (vocabulary, hidden).

        Returns:
            Logits, float (positions, vocabulary).
        """
        return nn.functional.linear(hidden, table.to(hidden.dtype))  # (positions, vocabulary)
