"""Metrics of generated texts against reference texts, in [0, 100] as in publications."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.functional.text import rouge_score
from torchmetrics.text import CHRFScore, SacreBLEUScore

from lightning_transfer.utils.suggestions import closest, did_you_mean


class Bleu(SacreBLEUScore):
    """Corpus-level SacreBLEU with the 13a tokenizer (Post 2018, arXiv:1804.08771)."""

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:  # type: ignore[override]
        """Add generated texts, each with one reference text."""
        super().update(preds, [[text] for text in target])

    def compute(self) -> Tensor:
        """Return the score, a scalar in [0, 100]."""
        return 100 * super().compute()


class Chrf(CHRFScore):
    """Corpus-level chrF: F-score of character n-grams, without word n-grams (Popović 2015)."""

    def __init__(self) -> None:
        """See the class."""
        super().__init__(n_word_order=0)

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:  # type: ignore[override]
        """Add generated texts, each with one reference text."""
        super().update(preds, [[text] for text in target])

    def compute(self) -> Tensor:
        """Return the score, a scalar in [0, 100]."""
        score = super().compute()
        assert isinstance(score, Tensor)  # a tuple only with sentence-level scores
        return 100 * score


class Rouge(MeanMetric):
    """ROUGE F-measure, averaged over texts (Lin 2004).

    As in the package ``rouge-score``, only letters and digits of the Latin alphabet are compared,
    in lower case.

    Args:
        kind: ``rouge1``, ``rouge2`` or ``rougeL``.
    """

    def __init__(self, kind: str) -> None:
        """See the class."""
        super().__init__()
        self.kind = kind

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:  # type: ignore[override]
        """Add generated texts, each with one reference text."""
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
"""Metrics of generated texts by name."""


def check_scores(names: Sequence[str], *, key: str) -> None:
    """Raise if a name is not in :data:`SCORES`.

    Args:
        names: Names of metrics.
        key: Key of the names in a config, for the message.

    Raises:
        ValueError: If a name is unknown.
    """
    if unknown := [name for name in names if name not in SCORES]:
        near = did_you_mean(closest(str(unknown[0]), SCORES))
        raise ValueError(
            f"unknown score {unknown[0]!r} in {key}{near} Known scores: {', '.join(SCORES)}"
        )


def make_score(name: str) -> Metric:
    """Return a new metric by its name in :data:`SCORES`."""
    return Rouge(name) if SCORES[name] is Rouge else SCORES[name]()
