"""Settings of text generation and of the metrics of generated texts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from transformers import GenerationConfig

from lightning_transfer.tasks.metrics.text_scores import check_scores
from lightning_transfer.utils.suggestions import closest, did_you_mean

# Length limits of a pretrained model. `max_new_tokens` replaces them.
_LENGTHS = ("max_length", "min_length", "min_new_tokens")


@dataclass(frozen=True)
class Generation:
    """Generation settings of a task.

    The defaults are greedy decoding; ``num_beams`` > 1 is beam search, ``do_sample`` is sampling.
    Other generation settings of a pretrained model, such as forced or forbidden tokens, stay in
    effect.

    Args:
        max_new_tokens: Maximum number of generated tokens, >= 1, end token included.
        num_beams: Number of beams, >= 1; 1 for greedy decoding or sampling without beams.
        do_sample: Draw tokens with torch's random number generator.
        temperature: Divisor of the logits before sampling, > 0; below 1 for less random texts.
        top_k: Number of most probable tokens to sample from, >= 1; None for all.
        top_p: Fraction of the probability mass to sample from, the most probable tokens first, in
            (0, 1].
        length_penalty: Exponent of the length in scores of beams; > 0 favours longer texts.
        no_repeat_ngram_size: Length of n-grams that may occur only once, >= 0; 0 for no limit.
        repetition_penalty: Penalty on already generated tokens, > 0; above 1 for less repetition.
        early_stopping: Stop beam search as soon as ``num_beams`` texts are complete.
        scores: Metrics of generated texts: ``bleu``, ``chrf``, ``rouge1``, ``rouge2``, ``rougeL``,
            each in [0, 100].

    Raises:
        ValueError: If a value is out of range, a score is unknown, a setting of sampling is used
            without ``do_sample``, or one of beam search without ``num_beams`` > 1.
    """

    max_new_tokens: int = 64
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    early_stopping: bool = False
    scores: tuple[str, ...] = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")

    def __post_init__(self) -> None:
        """Check the values."""
        # A config contains a list. A frozen dataclass does not allow plain assignment.
        object.__setattr__(self, "scores", tuple(self.scores))
        for name in ("max_new_tokens", "num_beams"):
            self._check_range(name, getattr(self, name) >= 1, ">= 1")
        self._check_range("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, ">= 0")
        for name in ("temperature", "repetition_penalty"):
            self._check_range(name, getattr(self, name) > 0, "> 0")
        self._check_range("top_p", 0 < self.top_p <= 1, "in (0, 1]")
        self._check_range("top_k", self.top_k is None or self.top_k >= 1, "null or >= 1")
        # transformers ignores these settings in other modes of generation.
        is_sampling_set = (self.temperature, self.top_k, self.top_p) != (1.0, None, 1.0)
        if is_sampling_set and not self.do_sample:
            raise ValueError(
                f"generation.temperature={self.temperature}, top_k={self.top_k} and "
                f"top_p={self.top_p} need sampling; set generation.do_sample=true"
            )
        if self.num_beams == 1 and (self.length_penalty != 1 or self.early_stopping):
            raise ValueError(
                f"generation.length_penalty={self.length_penalty} and "
                f"early_stopping={self.early_stopping} need beam search; set generation.num_beams=4"
            )
        check_scores(self.scores, key="generation.scores")

    def _check_range(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"generation.{name} must be {allowed}, got {getattr(self, name)}")

    @classmethod
    def of(cls, given: "Generation | Mapping[str, Any] | None") -> "Generation":
        """Return generation settings from a mapping, such as a node of a config.

        Args:
            given: Arguments by name; None for the defaults; or settings, returned unchanged.

        Raises:
            ValueError: If a name is unknown or a value is out of range.
        """
        if isinstance(given, Generation):
            return given
        known = [field.name for field in fields(cls)]
        for name in given or {}:
            if name not in known:
                near = did_you_mean(closest(str(name), known))
                raise ValueError(
                    f"unknown generation setting {name!r}{near} Known settings: {', '.join(known)}"
                )
        return cls(**(given or {}))

    def to_generation_config(
        self, base: Mapping[str, Any], ids: Mapping[str, Any]
    ) -> GenerationConfig:
        """Return the settings as a generation config of transformers.

        Args:
            base: Generation settings of the pretrained model; those of this class replace them.
            ids: ``decoder_start_token_id``, ``eos_token_id`` and ``pad_token_id``.
        """
        own = {name: value for name, value in asdict(self).items() if name != "scores"}
        # transformers warns of settings that have no effect, unless they are None.
        if not self.do_sample:
            own |= dict.fromkeys(("temperature", "top_k", "top_p"))
        elif self.top_k is None:
            own["top_k"] = 0  # no limit; None would be replaced by 50, the default
        if self.num_beams == 1:
            own |= dict.fromkeys(("length_penalty", "early_stopping"))
        kept = {k: v for k, v in base.items() if k not in own and k not in _LENGTHS}
        return GenerationConfig(**{**kept, **own, **ids})
