"""How transformers stores an encoder-decoder: its names for what our parts hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig

from lightning_transfer.checkpoint import config_of
from lightning_transfer.heads import DecoderHead
from lightning_transfer.labels import Labels
from lightning_transfer.lm_head import (
    empty_whole,
    head_form,
    kept_generation,
    native_names,
    without_notes,
)
from lightning_transfer.tasks import SequenceToSequence
from lightning_transfer.tasks.special_tokens import special_tokens


@dataclass(frozen=True)
class NativeSeq2Seq:
    """Where an architecture's own model keeps our backbone and head.

    Args:
        pairs: Our names and theirs; one that ends in a dot, or is empty, stands for all below it.
        architecture: Name of their class.
    """

    pairs: tuple[tuple[str, str], ...]
    architecture: str

    @classmethod
    def of(cls, config: PretrainedConfig | Mapping[str, Any]) -> "NativeSeq2Seq":
        """Return it for a model's config, or the ``to_dict()`` of one.

        Raises:
            ValueError: If transformers has no such model.
        """
        if isinstance(config, Mapping):
            config = config_of(config)
        pairs = tuple(native_names(config, head_form(config)))
        return cls(pairs, type(empty_whole(config)).__name__)

    def names(self, ours: str) -> str:
        """Return the native name of one of our parameters."""
        return _renamed(ours, self.pairs)

    def ours(self, native: str) -> str:
        """Return our name of one of its parameters."""
        # The longest first: an empty prefix is that of all names.
        back = sorted(((theirs, own) for own, theirs in self.pairs), key=lambda p: -len(p[0]))
        return _renamed(native, back)

    def objection(self, config: object, head: nn.Module) -> str:
        """Return why a head is not this architecture's, or nothing."""
        if type(head) is DecoderHead:
            return ""
        return f"transformers has no {type(head).__name__} for encoder-decoders"

    def describe(self, config: Any, labels: Labels) -> None:
        """Write the architecture into a model's config."""
        config.architectures = [self.architecture]
        without_notes(config)

    def opener(self, labels: Labels) -> Any:
        """Return the class that opens a folder of such a model."""
        return AutoModelForSeq2SeqLM

    def write_generation(self, task: SequenceToSequence, folder: Path) -> None:
        """Write how the task generates, where ``generate`` of transformers looks for it."""
        config = task.backbone.config
        settings = task.generation.config(kept_generation(config), special_tokens(config))
        settings.save_pretrained(folder)

    def compared(
        self, task: SequenceToSequence, model: Any, ids: Tensor, mask: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return what has to be equal: our logits and those of transformers' own model.

        Args:
            task: In eval mode.
            model: Transformers' own, in eval mode.
            ids: Token ids, int64 (batch, seq).
            mask: 1 on tokens, int64 (batch, seq).

        Raises:
            RuntimeError: If they write other texts.
        """
        device = next(task.parameters()).device
        labels = ids.remainder(task.head.form.vocabulary[0]).masked_fill(mask == 0, -100)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        batch = {name: value.to(device) for name, value in batch.items()}
        logits = task(batch)  # (targets, vocabulary)
        inputs = task.shift_right(batch["labels"]).cpu()
        theirs = model(input_ids=ids, attention_mask=mask, decoder_input_ids=inputs).logits
        exact = all(p.dtype in (torch.float32, torch.float64) for p in task.parameters())
        if exact and not task.generation.do_sample:  # in 16 bits, two tokens are often as probable
            written = task.generate(batch).cpu()
            found = model.generate(input_ids=ids, attention_mask=mask)[:, 1:]
            if not torch.equal(written, found):
                raise RuntimeError(
                    "the exported model writes other texts than the trained one: "
                    f"{found.tolist()}, not {written.tolist()}"
                )
        return [(logits, theirs[labels != -100])]


def _renamed(name: str, pairs: Any) -> str:
    for old, new in pairs:
        if name == old or (name.startswith(old) and (not old or old.endswith("."))):
            return f"{new}{name.removeprefix(old)}"
    return name
