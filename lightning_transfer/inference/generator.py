"""Texts for new texts, from a trained task: in memory, or file to file."""

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
    """Writes a text for each text with a trained task: translations, summaries, headlines.

    ``predict_file`` adds the column ``generated``. Texts come in batches of like length, and a
    batch is done when its longest answer is.

    Args:
        task: See :class:`Predictor`, as for the rest; one that writes text.
        tokenizer: Of the texts that are read.
        tokens: How those are cut.
        batch_size: Texts per batch at most.
        max_tokens: Tokens of the texts that are read per batch at most, padding counted.
        device: A device of torch, or ``auto``.
    """

    added: ClassVar[tuple[str, ...]] = ("generated",)
    kinds: ClassVar[tuple[str, ...]] = ("text",)

    target_tokenizer: PreTrainedTokenizerBase | None = None  # of what is written; None: the same

    def _equip(self, loaded: Loaded) -> None:
        self.target_tokenizer = loaded.target_tokenizer

    def generate_with(self, settings: Mapping[str, Any]) -> None:
        """Write in another way than in training.

        Args:
            settings: Some of the arguments of :class:`tasks.Generation`, such as ``num_beams``.

        Raises:
            ValueError: If a name is unknown or a value makes no sense.
        """
        task = self._writing
        task.generation = Generation.of({**asdict(task.generation), **settings})

    @property
    def _writing(self) -> SequenceToSequence:
        assert isinstance(self.task, SequenceToSequence)  # as its labels are of kind text
        return self.task

    def predict(  # type: ignore[override]
        self, texts: Sequence[str], pairs: None = None
    ) -> list[str]:
        """Write a text for each text, in the order given.

        Args:
            texts: Texts of any length; long ones are cut as in training.
            pairs: There are none.

        Raises:
            TypeError: If one string is passed in place of a list.
            ValueError: If a text is empty or no text, or pairs are given.
        """
        found: list[Any] = super().predict(texts, pairs)
        return found

    def _nothing(self, suffix: str) -> tuple[Any, ...]:
        return (None,)

    def _cells(self, said: Any) -> tuple[Any, ...]:
        return (said,)

    def _predict(self, texts: Sequence[Any], pairs: Sequence[str] | None) -> list[Any]:
        if pairs is not None:
            raise ValueError("a text is written for one text, not for a pair; leave text_pair out")
        if not texts:
            return []
        by_place: dict[int, str] = {}
        for places, batch in self._batches(self._tokenized(texts, None)):
            with torch.inference_mode(), evaluating(self.task):
                ids = self._writing.generate(batch)  # (batch, written)
            written = self._writing.texts(ids, self.target_tokenizer or self.tokenizer)
            by_place |= dict(zip(places, written, strict=True))
        return [by_place[place] for place in range(len(texts))]
