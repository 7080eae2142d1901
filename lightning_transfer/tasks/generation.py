"""How a model writes text, and how that is scored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from transformers import GenerationConfig

from lightning_transfer.tasks.metrics.text_scores import SCORES
from lightning_transfer.utils.suggestions import closest, did_you_mean

# What a model may come with and is ours to say; all else, such as forced tokens, stays.
_LENGTHS = ("max_length", "min_length", "min_new_tokens")


@dataclass(frozen=True)
class Generation:
    """Greedy by default; beams with ``num_beams``, samples with ``do_sample``.

    What a pretrained model came with for generation, such as forced or forbidden tokens, stays,
    but for what is said here.

    Args:
        max_new_tokens: Tokens of a text at most, its end included.
        num_beams: Beams; 1 is greedy, or plain sampling.
        do_sample: Whether tokens are drawn, by torch's random numbers.
        temperature: Divides the logits that are drawn from; below 1 is bolder.
        top_k: Tokens that are drawn from at most; None: all.
        top_p: The most probable tokens, up to this share of the probability, in (0, 1].
        length_penalty: Of beams: above 0 prefers longer texts.
        no_repeat_ngram_size: No n-gram of this length twice; 0 allows all.
        repetition_penalty: Above 1 makes tokens that were written less probable.
        early_stopping: Whether beams end as soon as there are ``num_beams`` whole texts.
        scores: What is measured of the texts: ``bleu``, ``chrf``, ``rouge1``, ``rouge2``,
            ``rougeL``, each from 0 to 100.

    Raises:
        ValueError: If a value is out of its range, or speaks of samples or beams where there are
            none.
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
        object.__setattr__(self, "scores", tuple(self.scores))
        for name in ("max_new_tokens", "num_beams"):
            self._need(name, getattr(self, name) >= 1, ">= 1")
        self._need("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, ">= 0")
        for name in ("temperature", "repetition_penalty"):
            self._need(name, getattr(self, name) > 0, "> 0")
        self._need("top_p", 0 < self.top_p <= 1, "in (0, 1]")
        self._need("top_k", self.top_k is None or self.top_k >= 1, "null or >= 1")
        drawn = (self.temperature, self.top_k, self.top_p) != (1.0, None, 1.0)
        if drawn and not self.do_sample:
            raise ValueError(
                f"generation.temperature={self.temperature}, top_k={self.top_k} and "
                f"top_p={self.top_p} are of samples; set generation.do_sample=true too"
            )
        if self.num_beams == 1 and (self.length_penalty != 1 or self.early_stopping):
            raise ValueError(
                f"generation.length_penalty={self.length_penalty} and "
                f"early_stopping={self.early_stopping} are of beams; set generation.num_beams too"
            )
        if unknown := [name for name in self.scores if name not in SCORES]:
            near = did_you_mean(closest(str(unknown[0]), SCORES))
            raise ValueError(
                f"generation.scores must be among {', '.join(SCORES)}, got {unknown[0]!r}{near}"
            )

    def _need(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"generation.{name} must be {allowed}, got {getattr(self, name)}")

    @classmethod
    def of(cls, given: "Generation | Mapping[str, Any] | None") -> "Generation":
        """Return settings from a mapping of them, as a config has it.

        Raises:
            ValueError: If a name is unknown; the message lists the closest.
        """
        if isinstance(given, Generation):
            return given
        known = [field.name for field in fields(cls)]
        for name in given or {}:
            if name not in known:
                near = did_you_mean(closest(str(name), known))
                raise ValueError(
                    f"generation has no setting {name!r}{near} It takes {', '.join(known)}"
                )
        return cls(**(given or {}))

    def config(self, base: Mapping[str, Any], ids: Mapping[str, Any]) -> GenerationConfig:
        """Return transformers' form of it.

        Args:
            base: What the model came with.
            ids: ``decoder_start_token_id``, ``eos_token_id`` and ``pad_token_id``.
        """
        own = {name: value for name, value in asdict(self).items() if name != "scores"}
        if not self.do_sample:  # transformers warns of what is not used
            own |= dict.fromkeys(("temperature", "top_k", "top_p"))
        elif self.top_k is None:
            own["top_k"] = 0  # it would take the 50 best
        if self.num_beams == 1:
            own |= dict.fromkeys(("length_penalty", "early_stopping"))
        kept = {k: v for k, v in base.items() if k not in own and k not in _LENGTHS}
        return GenerationConfig(**{**kept, **own, **ids})
