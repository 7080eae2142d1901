"""Peer sentence-transformers: sentence embeddings and logistic regression."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _settings import Work
from _turns import Result, stopwatch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sklearn.linear_model import LogisticRegression

Labelled = tuple[Sequence[str], Sequence[int]]


def encoder(work: Work, model: Path | None = None) -> SentenceTransformer:
    """Return a backbone, by default that of ``work``, with mean pooling."""
    backbone = Transformer(str(model or work.model), max_seq_length=work.max_length)
    pooling = Pooling(backbone.get_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[backbone, pooling], device="cpu")


def encode(model: SentenceTransformer, texts: Sequence[str], *, batch_size: int) -> Any:
    """Return the embeddings, float32 (texts, hidden)."""
    # The library itself groups texts of similar length into batches.
    return model.encode(list(texts), batch_size=batch_size, show_progress_bar=False)


def encode_and_regress(work: Work, train: Labelled, test: Labelled) -> Result:
    """Fit logistic regression to the embeddings of the training texts.

    Args:
        work: Work of all sides.
        train: Training texts and their classes.
        test: Texts and classes for the score.
    """
    model = encoder(work)
    (texts, labels), (others, right) = train, test
    with stopwatch() as seconds:
        features = encode(model, texts, batch_size=work.batch_size)
        regression = LogisticRegression(max_iter=1000).fit(features, labels)
    found = regression.predict(encode(model, others, batch_size=work.batch_size))
    return Result(seconds[0], float((found == np.array(right)).mean()))
