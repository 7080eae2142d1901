"""Scores of generated text against references, from 0 to 100 as papers give them."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.functional.text import rouge_score
from torchmetrics.text import CHRFScore, SacreBLEUScore


class Bleu(SacreBLEUScore):
    """SacreBLEU of the corpus, with its 13a tokenizer (Post 2018, arXiv:1804.08771)."""

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:  # type: ignore[override]
        """Add texts, each with one reference."""
        super().update(preds, [[text] for text in target])

    def compute(self) -> Tensor:
        """Return the score in [0, 100]."""
        return 100 * super().compute()


class Chrf(CHRFScore):
    """ChrF of the corpus: character n-grams, without words (Popović 2015)."""

    def __init__(self) -> None:
        """See the class."""
        super().__init__(n_word_order=0)

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:  # type: ignore[override]
        """Add texts, each with one reference."""
        super().update(preds, [[text] for text in target])

    def compute(self) -> Tensor:
        """Return the score in [0, 100]."""
        score = super().compute()
        assert isinstance(score, Tensor)  # a tuple if scores of sentences are asked for
        return 100 * score


class Rouge(MeanMetric):
    """The F-measure of ROUGE, mean over the texts (Lin 2004).

    Letters and digits of the Latin alphabet alone are compared, in lower case, as in the package
    ``rouge-score``.

    Args:
        kind: ``rouge1``, ``rouge2`` or ``rougeL``.
    """

    def __init__(self, kind: str) -> None:
        """See the class."""
        super().__init__()
        self.kind = kind

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:  # type: ignore[override]
        """Add texts, each with one reference."""
        for text, reference in zip(preds, target, strict=True):
            found = rouge_score(text, reference, rouge_keys=self.kind)[f"{self.kind}_fmeasure"]
            super().update(100 * found)


SCORES: Mapping[str, type[Metric]] = {
    "bleu": Bleu,
    "chrf": Chrf,
    "rouge1": Rouge,
    "rouge2": Rouge,
    "rougeL": Rouge,
}


def make_score(name: str) -> Metric:
    """Return a new metric of that name."""
    return Rouge(name) if SCORES[name] is Rouge else SCORES[name]()
