"""What all tasks share: backbone, head, extra losses, metrics, optimizer, checkpoint."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import LRSchedulerConfig, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection
from transformers import PreTrainedModel

from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.cpu import keep_freed_memory
from lightning_transfer.backbones.layer_layout import find_layer_layout
from lightning_transfer.objectives import KeepsInitialParameters, Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import KEY, describe_task

log = logging.getLogger(__name__)

Batch = Mapping[str, Any]
# What a backbone is given beside ids and mask, where the batch has it and the backbone takes it.
_EXTRAS = ("token_type_ids", "from_depth", "hidden")
_FULL = "full"  # an entry of batches without padding, as a TextDataModule marks them
_STARTS = f"{KEY}_starts"  # what objectives remember, in resume points


class TransferModule(LightningModule):
    """A backbone and a head that learn one task.

    Subclasses say what the loss and the metrics are; everything else is here once. Checkpoints
    of such a module are self-contained: they carry the backbone's config, the head's arguments,
    the label names and, where the DataModule has one, the tokenizer.

    Args:
        backbone: Token features from ``(input_ids, attention_mask)``; has ``layers`` and
            ``hidden_size``.
        head: Outputs (batch, num_outputs) from features and mask; of a task ``per_token``,
            (batch, seq, num_outputs).
        labels: Names of the outputs.
        recipe: Optimizer, schedule and groups.
        objectives: Extra losses by name.

    Raises:
        ValueError: If the head gives its outputs for each token and the task needs them for each
            text, or the other way round; the backbone needs targets that the task does not give; or
            the head looks at a token that has seen nothing of the text.
    """

    monitor: ClassVar[str]
    mode: ClassVar[str] = "max"
    # Test metrics that are also taken before the first step, since they are judged by their fall.
    before: ClassVar[tuple[str, ...]] = ()
    # Whether there is an output for each token, or one for each text.
    per_token: ClassVar[bool] = False
    # Whether batches hold targets, which the decoder of an encoder-decoder reads.
    reads_targets: ClassVar[bool] = False

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        labels: Labels,
        recipe: Recipe | None = None,
        objectives: Mapping[str, Weighted] | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self._check_head(head)
        if not self.reads_targets:
            check_reader(backbone, head)
        self.backbone = backbone
        self.head = head
        self.labels = labels
        self.recipe = recipe or Recipe()
        self.position: dict[str, Any] = {}  # where in a larger plan this run stands
        self.reads_pairs: bool | None = None  # what it was trained on; None: not known
        self._extras = [name for name in _EXTRAS if _accepts(backbone.forward, name)]
        asked = inspect.signature(backbone.forward).parameters
        self._may_shorten = "first_token" in asked
        self._needs_mask = (
            "attention_mask" not in asked or asked["attention_mask"].default is not None
        )
        self._weights = dict(objectives or {})
        self.objectives = nn.ModuleDict({k: w.objective for k, w in self._weights.items()})
        metrics = self.build_metrics()
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        self.train()

    def _check_head(self, head: nn.Module) -> None:
        """Refuse a head of which it is known that its outputs are of the other form."""
        given = type(head).__name__
        if self.per_token and hasattr(head, "pooling"):
            raise ValueError(
                f"{type(self).__name__} needs an output for each token, and a {given} gives one "
                "for each text; set head=token"
            )
        if not self.per_token and getattr(head, "per_token", False):
            raise ValueError(
                f"{type(self).__name__} needs one output for each text, and a {given} gives one "
                "for each token; set head=mlp or head=linear"
            )

    def build_metrics(self) -> MetricCollection:
        """Return the metrics of this task, without a prefix."""
        raise NotImplementedError

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, a scalar, of logits (batch, num_outputs)."""
        raise NotImplementedError

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Feed a batch's logits (batch, num_outputs) and targets to the metrics."""
        raise NotImplementedError

    def feed(self, metrics: MetricCollection, logits: Tensor, batch: Batch) -> None:
        """Feed what the metrics need of a batch; logits and targets, unless a task needs more."""
        self.update_metrics(metrics, logits, batch["labels"])

    @property
    def reads_first_token(self) -> bool:
        """Whether the backbone is asked for the features of the first token alone."""
        return self._may_shorten and getattr(self.head, "first_token", False)

    def forward(self, batch: Batch) -> Tensor:
        """Compute outputs, float (batch, num_outputs), of a tokenized batch.

        With ``hidden``, float (batch, seq, hidden), and ``from_depth`` in the batch, as
        :class:`callbacks.ActivationCache` puts them there, only what lies above runs.
        """
        return self.head(self.features(batch), batch["attention_mask"])  # (batch, num_outputs)

    def features(self, batch: Batch) -> Tensor:
        """Compute what the head reads, float (batch, seq, hidden); seq is 1 for the first token."""
        extra = {"first_token": True} if self.reads_first_token else {}
        return self.as_head_reads(self.backbone(**self.inputs(batch), **extra))

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return what the backbone reads of a batch, as its arguments."""
        full = _FULL in batch and not self._needs_mask
        extra = {name: batch[name] for name in self._extras if name in batch}
        mask = None if full else batch["attention_mask"]
        return {"input_ids": batch["input_ids"], "attention_mask": mask, **extra}

    def as_head_reads(self, hidden: Tensor) -> Tensor:
        """Return features in the head's type: a backbone may be kept in 16 bits below it."""
        dtype = next((p.dtype for p in self.head.parameters()), hidden.dtype)
        return hidden.to(dtype)

    @property
    def args(self) -> dict[str, Any]:
        """What rebuilds this task, trained, beside its backbone, head and labels: plain values."""
        return {}

    def setup(self, stage: str) -> None:
        """Put everything in train mode; freezing callbacks then take their part out of it."""
        if stage == "fit":
            self.train()
            for objective in self._remembering().values():
                objective.begin(self)

    def on_fit_start(self) -> None:
        """Keep the memory of a step for the next one, where the steps are computed on the CPU."""
        if self.device.type == "cpu":
            keep_freed_memory()

    def _remembering(self) -> dict[str, KeepsInitialParameters]:
        return {k: o for k, o in self.objectives.items() if isinstance(o, KeepsInitialParameters)}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of the labelled batch plus the objectives."""
        source, target = (
            (batch["source"], batch.get("target")) if "source" in batch else (batch, None)
        )
        loss = self.loss(self(source), source["labels"])
        size = len(source["labels"])
        for name, weighted in self._weights.items():
            extra = self.objectives[name](source, target, self)
            self.log(f"train/{name}", extra.detach(), on_step=False, on_epoch=True, batch_size=size)
            loss = loss + weighted.factor(self.global_step) * extra
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics."""
        self._evaluate(batch, self.val_metrics, "val/loss")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics."""
        self._evaluate(batch, self.test_metrics, "test/loss")

    def _evaluate(self, batch: Batch, metrics: MetricCollection, name: str) -> None:
        logits, targets = self(batch), batch["labels"]
        self.feed(metrics, logits.float(), batch)
        loss = self.loss(logits, targets)
        size = len(targets)
        self.log_loss(name, loss, rows=size)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=size)

    def log_loss(self, name: str, loss: Tensor, *, rows: int) -> None:
        """Log a batch's part of a split's mean loss, in which each row of all ranks counts once.

        Args:
            name: As it is logged.
            loss: Mean over the rows, a scalar.
            rows: In the batch.
        """
        # Lightning adds up the rows in the type that it is given, and would round down the mean of
        # whole numbers over the ranks.
        weight = cast(int, float(rows))
        self.log(name, loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=weight)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return ``index`` int64 (batch,) and ``logits`` float32 (batch, num_outputs)."""
        return {"index": batch["index"], "logits": self(batch).float()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build what the recipe says."""
        return self.recipe.configure(self, self.backbone, monitor=self.monitor, mode=self.mode)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take a step, and let go of its gradients.

        Lightning keeps them until the next backward pass: through a forward pass, at whose end a
        step needs the most memory.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def on_validation_end(self) -> None:
        """Step the schedulers that watch a metric, as soon as there is one.

        Lightning does so after the end of the epoch, when resume points are already saved: a run
        resumed there would never take that step.
        """
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        for config in self._watching():
            scheduler: Any = config.scheduler  # its step takes the metric
            if config.monitor in self.trainer.callback_metrics:
                scheduler.step(self.trainer.callback_metrics[config.monitor])

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step a scheduler, unless it watches a metric: those have been stepped by now."""
        if all(config.scheduler is not scheduler for config in self._watching()):
            super().lr_scheduler_step(scheduler, metric)

    def _watching(self) -> list[LRSchedulerConfig]:
        configs = self.trainer.lr_scheduler_configs
        return [config for config in configs if config.reduce_on_plateau]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained."""
        datamodule = getattr(self._trainer, "datamodule", None)
        self.reads_pairs = getattr(datamodule, "reads_pairs", self.reads_pairs)
        described = describe_task(
            self,
            tokenizer=getattr(datamodule, "tokenizer", None),
            tokens=getattr(datamodule, "tokens", None),
            target_tokenizer=getattr(datamodule, "target_tokenizer", None),
            target_tokens=getattr(datamodule, "target_tokens", None),
        )
        position = {**self.position, "epoch": self.current_epoch, "step": self.global_step}
        checkpoint[KEY] = {**described, "position": position}
        if "optimizer_states" in checkpoint:  # not in weights that are handed on
            kept = {name: o.resume_state() for name, o in self._remembering().items()}
            checkpoint[_STARTS] = kept
        else:
            self._put_average(checkpoint)

    def _put_average(self, checkpoint: dict[str, Any]) -> None:
        """Save the averaged weights, if there are any, where weights alone are saved.

        They are what was validated. Lightning asks its callbacks only for whole checkpoints, and
        would save the weights that training goes on from.
        """
        for callback in getattr(self._trainer, "callbacks", ()):
            if isinstance(callback, WeightAveraging):
                callback.on_save_checkpoint(self.trainer, self, checkpoint)
                for rest in ("current_model_state", "averaging_state"):
                    checkpoint.pop(rest, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the objectives back what they remember."""
        remembering = self._remembering()
        for name, state in checkpoint.get(_STARTS, {}).items():
            if name in remembering:
                remembering[name].load_resume_state(state)

    def check_pairs(self, *, given: bool) -> None:
        """Raise or warn if new texts are not what the task was trained on, single ones or pairs.

        Args:
            given: Whether they are pairs.

        Raises:
            ValueError: If it was trained on pairs and they are none.
        """
        if self.reads_pairs and not given:
            raise ValueError(
                "the model was trained on pairs of texts; give the second texts too: pairs=[…] or, "
                "on the command line, text_pair=… or a file's column data.text_pair=…"
            )
        if given and self.reads_pairs is False:
            log.warning("the model was trained on single texts, and is given pairs")

    @torch.no_grad()
    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits (batch, …, num_outputs) into scores of the same shape."""
        if self.labels.kind in ("single_label", "tags"):
            return logits.softmax(dim=-1)
        return logits.sigmoid() if self.labels.kind == "multi_label" else logits


def _accepts(function: Any, name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def check_reader(backbone: nn.Module, head: nn.Module) -> None:
    """Raise if a task without targets could not run on a backbone, or only seem to.

    Args:
        backbone: Any; nothing is known of one of your own.
        head: Its ``pooling``, if it has one, is looked at.

    Raises:
        ValueError: If the backbone is an encoder-decoder, whose decoder would have nothing to read;
            or if it reads from left to right, and the head looks at the first token, which then
            has seen nothing of the text.
    """
    if not isinstance(backbone, Backbone):
        return
    name = type(backbone.model).__name__
    if backbone.is_encoder_decoder:
        raise ValueError(
            f"{name} is an encoder-decoder, and this task gives its decoder no targets; choose an "
            "encoder or a decoder alone, such as backbone.name=asset:minilm, which may take the "
            "encoder of such weights with weight_transfer=[encoder]"
        )
    model: PreTrainedModel = backbone.model
    if find_layer_layout(model).causal and getattr(head, "pooling", None) == "cls":
        raise ValueError(
            f"{name} reads from left to right, so its first token has seen nothing of a text, and "
            f"the {type(head).__name__} pools cls; set head.pooling=last"
        )
