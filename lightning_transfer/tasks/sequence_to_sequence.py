"""Sequence to sequence: translation, summarization and other generation of target texts."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.lm_heads import add_lm_head, pretrained_generation, set_lm_head
from lightning_transfer.heads import DecoderHead
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks.generation import Generation
from lightning_transfer.tasks.metrics.text_scores import make_score
from lightning_transfer.tasks.metrics.token_metrics import Perplexity
from lightning_transfer.tasks.row_texts import RowTexts
from lightning_transfer.tasks.special_tokens import set_special_tokens, special_tokens
from lightning_transfer.tasks.transfer_module import Batch, TransferModule
from lightning_transfer.utils import IGNORED, Labels


class SequenceToSequence(TransferModule):
    """Generation of a target text for each input text, with any encoder-decoder.

    Training uses teacher forcing and, optionally, label smoothing (Szegedy et al.,
    arXiv:1512.00567). Texts are generated with ``generate`` of transformers, which uses the trained
    modules themselves and no copy.

    Metrics are ``loss`` (mean over the target tokens, in nats, without smoothing), ``perplexity``
    and the scores of :class:`Generation` for generated texts. The scores need reference texts: a
    DataModule with ``rows(split)["target"]``, and ``index`` in its batches. A test always
    generates.

    Args:
        backbone: A :class:`Backbone` with an encoder and a decoder.
        head: A :class:`DecoderHead`.
        labels: Labels of kind ``text``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.
        label_smoothing: Fraction of the target distribution spread over all tokens, in [0, 1).
        generation: Generation settings, or a mapping of the arguments of :class:`Generation`; None
            for its defaults.
        generate_every: Epochs from one validation with generation to the next, >= 1; None for no
            generation in validations, so that they cost only a forward pass.

    Raises:
        ValueError: If the backbone is no encoder-decoder, the head is of another class, the labels
            are of another kind, ``label_smoothing``, ``generate_every`` or a generation setting is
            out of range, or ``max_new_tokens`` exceeds the positions of the decoder.
    """

    monitor = "val/loss"
    mode = "min"
    reads_targets = True

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        labels: Labels,
        recipe: Recipe | None = None,
        objectives: Mapping[str, Weighted] | None = None,
        label_smoothing: float = 0.0,
        generation: Generation | Mapping[str, Any] | None = None,
        generate_every: int | None = 1,
    ) -> None:
        """See the class."""
        if not isinstance(backbone, Backbone) or not backbone.is_encoder_decoder:
            name = type(getattr(backbone, "model", backbone)).__name__
            raise ValueError(
                f"SequenceToSequence needs an encoder-decoder, got {name}; use T5, BART or Marian, "
                "such as backbone=hub backbone.name=google-t5/t5-small, or backbone=warm_start"
            )
        if not isinstance(head, DecoderHead):
            raise ValueError(
                f"SequenceToSequence needs a DecoderHead, got {type(head).__name__}; set "
                "head=decoder"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be in [0, 1), got {label_smoothing}; "
                "set task.label_smoothing=0.1"
            )
        if generate_every is not None and generate_every < 1:
            raise ValueError(
                f"generate_every must be null or >= 1, got {generate_every}; "
                "set task.generate_every=1"
            )
        # Before `super().__init__`, which builds the metrics from its names of scores.
        self.generation = Generation.of(generation)
        _check_max_new_tokens(self.generation, backbone)
        super().__init__(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        self.backbone: Backbone  # nn.Module types its attributes as Tensor | Module
        self.head: DecoderHead
        self.label_smoothing = label_smoothing
        self.generate_every = generate_every
        # In a tuple, because nn.Module would register the model itself as a submodule, and its
        # weights would be in `state_dict()` twice.
        self._hf_model: tuple[PreTrainedModel, ...] = ()

    def build_metrics(self) -> MetricCollection:
        """Return loss and perplexity of target tokens, and scores of generated texts."""
        if self.labels.kind != "text":
            raise ValueError(
                f"SequenceToSequence needs labels of kind 'text', got {self.labels.kind!r}; use "
                "texts with target texts, such as data=parallel_files"
            )
        scores = {name: make_score(name) for name in self.generation.scores}
        # The metrics are updated one by one with different arguments, and share no state.
        return MetricCollection(
            {"loss": MeanMetric(), "perplexity": Perplexity(), **scores}, compute_groups=False
        )

    @property
    def args(self) -> dict[str, Any]:
        """Arguments stored in a checkpoint, beside backbone, head and labels; plain values."""
        generation = asdict(self.generation) | {"scores": list(self.generation.scores)}
        return {
            "label_smoothing": self.label_smoothing,
            "generation": generation,
            "generate_every": self.generate_every,
        }

    def set_special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set start token, end token and padding of target texts in the config of the model.

        Ids in the config are kept. Only missing ones are set.

        Args:
            tokenizer: Tokenizer of the target texts.

        Raises:
            ValueError: If model and tokenizer have different ids, or the tokenizer has none.
        """
        set_special_tokens(self.backbone.config, tokenizer)

    def setup(self, stage: str) -> None:
        """Set the special tokens, and get access to the texts of the DataModule.

        Raises:
            ValueError: If model and tokenizer have different special tokens, or the monitored
                metric is not computed in each epoch.
        """
        super().setup(stage)
        # Loaders without a DataModule are enough for loss and perplexity.
        datamodule: Any = getattr(self._trainer, "datamodule", None)
        self._row_texts = RowTexts(datamodule)
        if (tokenizer := self._target_tokenizer()) is not None:
            self.set_special_tokens(tokenizer)
        monitored = self.recipe.monitor or self.monitor
        is_score = monitored.removeprefix("val/") in self.generation.scores
        if stage == "fit" and is_score and self.generate_every != 1:
            raise ValueError(
                f"monitor={monitored} is a score of generated texts and needs them in each epoch, "
                f"got generate_every={self.generate_every}; set task.generate_every=1"
            )

    def _target_tokenizer(self) -> PreTrainedTokenizerBase | None:
        data = getattr(self._trainer, "datamodule", None)
        own: PreTrainedTokenizerBase | None = getattr(data, "target_tokenizer", None)
        return own or getattr(data, "tokenizer", None)

    def forward(self, batch: Batch) -> Tensor:
        """Compute logits, float (targets, vocabulary), of the target tokens of a batch.

        Args:
            batch: ``input_ids`` and ``attention_mask``, int64 (batch, seq), and ``labels``, int64
                (batch, target seq), -100 for padding. Logits are in the order of the rows, without
                padding.
        """
        hidden = self.backbone(
            **self.inputs(batch), decoder_input_ids=self.shift_right(batch["labels"])
        )  # (batch, target seq, hidden)
        return self._logits(hidden, batch["labels"])

    def _logits(self, hidden: Tensor, labels: Tensor) -> Tensor:
        table = self.backbone.target_embeddings
        assert table is not None  # a decoder of text has token embeddings
        # Without padding: the logits of each position are as many as the vocabulary has tokens.
        features = self.to_head_dtype(hidden[labels != IGNORED])  # (targets, hidden)
        return self.head(features, table.weight)  # (targets, vocabulary)

    def shift_right(self, labels: Tensor) -> Tensor:
        """Return the inputs of the decoder, int64 (batch, target seq).

        They are the start token followed by the labels, without the last one.

        Args:
            labels: Token ids, int64 (batch, target seq), -100 for padding.

        Raises:
            ValueError: If the model config has no special tokens; see :meth:`set_special_tokens`.
        """
        ids = special_tokens(self.backbone.config)
        shifted = labels.new_full(labels.shape, ids["decoder_start_token_id"])
        shifted[:, 1:] = labels[:, :-1]
        return shifted.masked_fill(shifted == IGNORED, ids["pad_token_id"])

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the target tokens, a scalar.

        Args:
            logits: Float (targets, vocabulary), returned by :meth:`forward`.
            targets: Token ids, int64 (batch, target seq), -100 for padding.
        """
        flat = targets[targets != IGNORED]  # (targets,)
        return nn.functional.cross_entropy(logits, flat, label_smoothing=self.label_smoothing)

    def _evaluate(self, batch: Batch, metrics: MetricCollection, name: str) -> None:
        phase, labels = name.partition("/")[0], batch["labels"]
        # The encoder runs once, for the loss and for the generated texts.
        encoded = self.backbone.encode(**self.inputs(batch))  # (batch, seq, hidden)
        mask = self.inputs(batch)["attention_mask"]
        hidden = self.backbone.decode(encoded, mask, self.shift_right(labels))
        logits = self._logits(hidden, labels).float()
        # Without label smoothing, so that runs with different smoothing are comparable.
        losses = nn.functional.cross_entropy(logits, labels[labels != IGNORED], reduction="none")
        updated = ["loss", "perplexity"]
        for metric in updated:
            metrics[metric].update(losses)
        if self._generates(phase):
            texts = self.decode_texts(self._generate(encoded, mask))
            references = self._row_texts.get(batch, phase, "target")
            for metric in self.generation.scores:
                metrics[metric].update(texts, references)
            updated += self.generation.scores
        # Only updated metrics: torchmetrics warns of a metric without an update.
        for metric in updated:
            value = metrics[metric]
            size = len(labels)
            self.log(f"{phase}/{metric}", value, on_step=False, on_epoch=True, batch_size=size)

    def _generates(self, phase: str) -> bool:
        """Return True if the current validation or test generates texts."""
        if self._target_tokenizer() is None or not self.generation.scores:
            return False
        if phase == "test" or self.trainer.state.fn != "fit":
            return True
        if self.generate_every is None or self.trainer.sanity_checking:
            return False
        return (self.current_epoch + 1) % self.generate_every == 0

    def decode_texts(
        self, ids: Tensor, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> list[str]:
        """Return the texts of generated token ids, without special tokens.

        Args:
            ids: Token ids, int64 (batch, generated), returned by :meth:`generate`.
            tokenizer: Tokenizer of the target texts; None for that of the DataModule.
        """
        tokenizer = tokenizer or self._target_tokenizer()
        assert tokenizer is not None
        found = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in found]

    @torch.no_grad()
    def generate(self, batch: Batch) -> Tensor:
        """Generate a text for each text of a batch.

        Modules keep their train or eval mode; call ``eval()`` first to disable dropout.

        Args:
            batch: ``input_ids`` and ``attention_mask``, int64 (batch, seq).

        Returns:
            Token ids, int64 (batch, generated), without the start token; padded after the end
            token.
        """
        inputs = self.inputs(batch)
        return self._generate(self.backbone.encode(**inputs), inputs["attention_mask"])

    @torch.no_grad()
    def _generate(self, encoded: Tensor, mask: Tensor | None) -> Tensor:
        model: Any = self.hf_model()
        ids = special_tokens(self.backbone.config)
        pretrained = pretrained_generation(self.backbone.config)
        model.generation_config = self.generation.to_generation_config(pretrained, ids)
        # Without a mask `generate` infers one from the input ids, which are not passed here.
        if mask is None:
            size, device = encoded.shape[:2], encoded.device
            mask = torch.ones(size, dtype=torch.long, device=device)  # (batch, seq)
        generated: Tensor = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded), attention_mask=mask
        )
        return generated[:, 1:]  # (batch, generated)

    def hf_model(self) -> PreTrainedModel:
        """Return a model of transformers built of the modules of backbone and head, not a copy."""
        if not self._hf_model:
            self._hf_model = (add_lm_head(self.backbone.model),)
        table = self.backbone.target_embeddings
        assert table is not None
        # At each call, because moving a module replaces its buffers, such as the bias of BART's
        # head.
        parts = {**dict(self.head.named_parameters()), **dict(self.head.named_buffers())}
        set_lm_head(self._hf_model[0], self.head.layout, parts, table.weight)
        return self._hf_model[0]

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return ``index`` int64 (batch,) and ``ids`` int64 (batch, generated)."""
        return {"index": batch["index"], "ids": self.generate(batch)}


def _check_max_new_tokens(generation: Generation, backbone: Backbone) -> None:
    limit = backbone.max_target_tokens
    if limit is not None and generation.max_new_tokens > limit:
        raise ValueError(
            f"generation.max_new_tokens must be <= {limit}, the number of positions of the "
            f"decoder, got {generation.max_new_tokens}; set task.generation.max_new_tokens={limit}"
        )
