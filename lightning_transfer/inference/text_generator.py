"""Text generation with a trained task, in memory or from file to file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from transformers import PreTrainedTokenizerBase

from lightning_transfer.checkpoints.loading import Loaded
from lightning_transfer.inference.predictor import Predictor
from lightning_transfer.tasks import Generation, SequenceToSequence
from lightning_transfer.utils.modes import evaluating


class TextGenerator(Predictor):
    """Generates a text for each input text: translations, summaries or headlines.

    ``predict_file`` adds the column ``generated``. A batch takes as long as its longest generated
    text.

    Args:
        task: A trained task with labels of kind ``text``; it is moved to ``device``.
        tokenizer: Tokenizer of the input texts.
        tokens: Length and truncation of the input texts.
        batch_size: Maximum number of texts per batch, >= 1.
        max_tokens: Maximum number of input tokens per batch, padding included; None for no limit.
        device: A torch device such as ``cpu``, or ``auto`` for a CUDA GPU if there is one.
    """

    added_columns: ClassVar[tuple[str, ...]] = ("generated",)
    label_kinds: ClassVar[tuple[str, ...]] = ("text",)

    target_tokenizer: PreTrainedTokenizerBase | None = None
    """Tokenizer of the generated texts; None if it is that of the input texts."""

    def _set_loaded_parts(self, loaded: Loaded) -> None:
        self.target_tokenizer = loaded.target_tokenizer

    def generate_with(self, settings: Mapping[str, Any]) -> None:
        """Change generation settings of the task.

        Args:
            settings: Some of the arguments of :class:`tasks.Generation`, such as ``num_beams``; the
                others keep their values.

        Raises:
            ValueError: If a name is unknown or a value is out of range.
        """
        task = self._text_task
        task.generation = Generation.of({**asdict(task.generation), **settings})

    @property
    def _text_task(self) -> SequenceToSequence:
        # LeadText has labels of the same kind, but generates nothing.
        assert isinstance(self.task, SequenceToSequence)
        return self.task

    def predict(  # type: ignore[override]
        self, texts: Sequence[str], pairs: None = None
    ) -> list[str]:
        """Generate a text for each input text, in input order.

        Args:
            texts: Texts of any length; long ones are truncated as in training.
            pairs: Not supported; must be None.

        Raises:
            TypeError: If ``texts`` is one string and not a list.
            ValueError: If a text is empty or not a string, or ``pairs`` is given.
        """
        found: list[Any] = super().predict(texts, pairs)
        return found

    def _empty_cells(self, suffix: str) -> tuple[Any, ...]:
        return (None,)

    def _cells(self, prediction: Any) -> tuple[Any, ...]:
        return (prediction,)

    def _predict(self, texts: Sequence[Any], pairs: Sequence[str] | None) -> list[Any]:
        if pairs is not None:
            raise ValueError(
                "TextGenerator generates from single texts, got pairs; remove pairs or text_pair"
            )
        if not texts:
            return []
        by_place: dict[int, str] = {}
        # Batches are sorted by length, so the texts are put back into input order at the end.
        for places, batch in self._batches(self._tokenized(texts, None)):
            with torch.inference_mode(), evaluating(self.task):
                ids = self._text_task.generate(batch)  # (batch, generated)
            tokenizer = self.target_tokenizer or self.tokenizer
            generated = self._text_task.decode_texts(ids, tokenizer)
            by_place |= dict(zip(places, generated, strict=True))
        return [by_place[place] for place in range(len(texts))]
