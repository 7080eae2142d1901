"""The head of a causal language model: the table of embeddings, turned round."""

from typing import Any

from torch import Tensor, nn


class NextTokenHead(nn.Module):
    """Logits over the vocabulary by the product with the token embeddings, as in GPT-2.

    It has no weights of its own: the table stays the backbone's and is given to :meth:`tokens` with
    each call (Press & Wolf, Using the Output Embedding to Improve Language Models,
    arXiv:1608.05859).

    Args:
        hidden_size: Width of the backbone's features.
        num_outputs: Must be 0: there are no labels beside the tokens.
        vocabulary: Rows and width of the table of token embeddings.

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
                f"NextTokenHead guesses tokens and nothing else, got num_outputs={num_outputs}; "
                "use data of raw text with pretraining=causal"
            )
        if hidden_size != vocabulary[1]:
            raise ValueError(
                f"features of {hidden_size} numbers cannot meet embeddings of {vocabulary[1]}; use "
                "a backbone whose hidden size is that of its embeddings"
            )

    @property
    def args(self) -> dict[str, Any]:
        """What rebuilds this head beside its sizes."""
        return {}

    def tokens(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Map features (positions, hidden) to logits (positions, vocabulary).

        Args:
            hidden: Float (positions, hidden).
            table: The token embeddings, float (vocabulary, hidden).
        """
        return nn.functional.linear(hidden, table.to(hidden.dtype))  # (positions, vocabulary)
