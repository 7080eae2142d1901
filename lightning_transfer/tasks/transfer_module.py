"""Base class of all tasks: backbone, head, objectives, metrics, optimizer and checkpoint."""

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
# Passed to a backbone only if the batch contains them and its `forward` accepts them.
_OPTIONAL_INPUTS = ("token_type_ids", "from_depth", "hidden")
# Key of batches without padding, which need no mask. The DataModule sets it on the CPU, because
# checking a mask on a GPU would wait for the device.
_NO_PADDING = "full"
# Key of the state of objectives in a resume point. Part of the file format.
_OBJECTIVES_KEY = f"{KEY}_starts"


class TransferModule(LightningModule):
    """LightningModule of a backbone and a head for one task.

    Subclasses define the loss and the metrics. This class runs the backbone and the head, adds the
    objectives to the loss, logs, builds the optimizer and completes the checkpoints. A checkpoint
    is self-contained: it stores the backbone's config, the arguments of the head, the label names
    and, if the DataModule has one, the tokenizer.

    Args:
        backbone: Module with ``layers`` and ``hidden_size``. Computes token features
            (batch, seq, hidden) from ``input_ids`` and ``attention_mask``.
        head: Maps features and mask to outputs (batch, num_outputs), or to outputs
            (batch, seq, num_outputs) if the task is ``per_token``.
        labels: Names of the outputs.
        recipe: Optimizer, schedule and parameter groups.
        objectives: Extra losses by name.

    Raises:
        ValueError: If the head returns one output per token and the task needs one per text, or
            vice versa; if the backbone is an encoder-decoder and the task has no target texts; or
            if the backbone is causal and the head pools the first token.
    """

    monitor: ClassVar[str]
    """Validation metric for early stopping, checkpoints and plateau schedulers."""
    mode: ClassVar[str] = "max"
    """``max`` if a larger monitored value is better, else ``min``."""
    metrics_before_training: ClassVar[tuple[str, ...]] = ()
    """Test metrics also computed with the initial weights, to report their change."""
    per_token: ClassVar[bool] = False
    """True if the head returns one output per token, False for one per text."""
    reads_targets: ClassVar[bool] = False
    """True if batches contain target texts, the input of an encoder-decoder's decoder."""

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
            _check_backbone_and_pooling(backbone, head)
        self.backbone = backbone
        self.head = head
        self.labels = labels
        self.recipe = recipe or Recipe()
        self.position: dict[str, Any] = {}  # place of this run in an experiment, for checkpoints
        self.reads_pairs: bool | None = None  # trained on pairs of texts; None if unknown
        # Backbones of users differ in the arguments of `forward`, so the signature decides.
        self._optional_inputs = [n for n in _OPTIONAL_INPUTS if _accepts(backbone.forward, n)]
        parameters = inspect.signature(backbone.forward).parameters
        self._accepts_first_token = "first_token" in parameters
        self._needs_mask = (
            "attention_mask" not in parameters or parameters["attention_mask"].default is not None
        )
        self._weights = dict(objectives or {})
        self.objectives = nn.ModuleDict({k: w.objective for k, w in self._weights.items()})
        metrics = self.build_metrics()
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        # A custom backbone may be in eval mode, as `from_pretrained` of transformers returns it.
        self.train()

    def _check_head(self, head: nn.Module) -> None:
        """Raise if the head is known to return outputs of the wrong shape."""
        # A custom head without these attributes is accepted, because its shape is unknown.
        given = type(head).__name__
        if self.per_token and hasattr(head, "pooling"):
            raise ValueError(
                f"{type(self).__name__} needs a head with one output per token, got {given} with "
                "one output per text; set head=token"
            )
        if not self.per_token and getattr(head, "per_token", False):
            raise ValueError(
                f"{type(self).__name__} needs a head with one output per text, got {given} with "
                "one output per token; set head=mlp or head=linear"
            )

    def build_metrics(self) -> MetricCollection:
        """Return the metrics of this task, by names without a prefix."""
        raise NotImplementedError

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            logits: Float (batch, num_outputs).
            targets: ``labels`` of the batch.
        """
        raise NotImplementedError

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Update the metrics with the outputs of a batch.

        Args:
            metrics: Metrics of :meth:`build_metrics`.
            logits: Float32 (batch, num_outputs).
            targets: ``labels`` of the batch.
        """
        raise NotImplementedError

    def update_metrics_from_batch(
        self, metrics: MetricCollection, logits: Tensor, batch: Batch
    ) -> None:
        """Update the metrics with the outputs and the batch.

        Tasks override this method if their metrics need more than the targets.

        Args:
            metrics: Metrics of :meth:`build_metrics`.
            logits: Float32 (batch, num_outputs).
            batch: A tokenized batch with ``labels``.
        """
        self.update_metrics(metrics, logits, batch["labels"])

    @property
    def reads_first_token(self) -> bool:
        """True if the backbone computes only the features of the first token."""
        return self._accepts_first_token and getattr(self.head, "first_token", False)

    def forward(self, batch: Batch) -> Tensor:
        """Compute outputs, float (batch, num_outputs), of a tokenized batch.

        Args:
            batch: ``input_ids`` and ``attention_mask``, int64 (batch, seq). With ``hidden``,
                float (batch, seq, hidden), and ``from_depth``, both added by
                :class:`callbacks.ActivationCache`, only the layers above that depth run.
        """
        return self.head(self.features(batch), batch["attention_mask"])  # (batch, num_outputs)

    def features(self, batch: Batch) -> Tensor:
        """Compute the head's input, float (batch, seq, hidden).

        ``seq`` is 1 if :attr:`reads_first_token` is true.
        """
        extra = {"first_token": True} if self.reads_first_token else {}
        return self.to_head_dtype(self.backbone(**self.inputs(batch), **extra))

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the arguments of the backbone from a batch."""
        no_mask = _NO_PADDING in batch and not self._needs_mask
        extra = {name: batch[name] for name in self._optional_inputs if name in batch}
        mask = None if no_mask else batch["attention_mask"]
        return {"input_ids": batch["input_ids"], "attention_mask": mask, **extra}

    def to_head_dtype(self, hidden: Tensor) -> Tensor:
        """Return features in the dtype of the head; the backbone may have 16-bit weights."""
        dtype = next((p.dtype for p in self.head.parameters()), hidden.dtype)
        return hidden.to(dtype)

    @property
    def args(self) -> dict[str, Any]:
        """Arguments stored in a checkpoint, beside backbone, head and labels; plain values."""
        return {}

    def setup(self, stage: str) -> None:
        """Prepare modules and objectives for training."""
        if stage == "fit":
            # Lightning keeps the modes that it finds. Callbacks that freeze layers put these in
            # eval mode afterwards.
            self.train()
            for objective in self._stateful_objectives().values():
                objective.begin(self)

    def on_fit_start(self) -> None:
        """Reuse the memory of a training step for the next one, on a CPU."""
        if self.device.type == "cpu":
            # glibc would return the memory of large tensors to the system after each use.
            keep_freed_memory()

    def _stateful_objectives(self) -> dict[str, KeepsInitialParameters]:
        return {k: o for k, o in self.objectives.items() if isinstance(o, KeepsInitialParameters)}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of the labelled batch plus the weighted objectives.

        Args:
            batch: A tokenized batch with ``labels``; or a mapping of ``source`` to such a batch
                and optionally ``target`` to a batch without labels, used by objectives only.
            batch_idx: Unused.
        """
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
        self.update_metrics_from_batch(metrics, logits.float(), batch)
        loss = self.loss(logits, targets)
        size = len(targets)
        self.log_loss(name, loss, rows=size)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=size)

    def log_loss(self, name: str, loss: Tensor, *, rows: int) -> None:
        """Log the loss of a batch as a part of the mean over a split.

        Every row counts once, independent of the number of ranks and of rows per rank.

        Args:
            name: Name of the logged value.
            loss: Mean over the rows of the batch, a scalar.
            rows: Rows in the batch.
        """
        # A float, because Lightning sums batch sizes in their dtype, and would round the mean of
        # integers over the ranks down.
        weight = cast(int, float(rows))
        self.log(name, loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=weight)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return ``index`` int64 (batch,) and ``logits`` float32 (batch, num_outputs)."""
        return {"index": batch["index"], "logits": self(batch).float()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return optimizer and schedulers of the recipe."""
        return self.recipe.configure(self, self.backbone, monitor=self.monitor, mode=self.mode)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Run an optimizer step and release the gradients."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # Lightning would keep the gradients until the next backward pass. The forward pass before
        # it needs the most memory at its end, when they would still be allocated.
        optimizer.zero_grad()

    def on_validation_end(self) -> None:
        """Step the plateau schedulers, as soon as their metric is known."""
        # Lightning steps them after the end of the epoch, when resume points are already saved. A
        # run resumed from such a point would never take that step.
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        for config in self._plateau_schedulers():
            # Any: of the declared types only ReduceLROnPlateau takes a metric.
            scheduler: Any = config.scheduler
            if config.monitor in self.trainer.callback_metrics:
                scheduler.step(self.trainer.callback_metrics[config.monitor])

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step a scheduler, unless it is a plateau scheduler, stepped after validation."""
        if all(config.scheduler is not scheduler for config in self._plateau_schedulers()):
            super().lr_scheduler_step(scheduler, metric)

    def _plateau_schedulers(self) -> list[LRSchedulerConfig]:
        configs = self.trainer.lr_scheduler_configs
        return [config for config in configs if config.reduce_on_plateau]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description of the task, and the state of objectives or averaged weights."""
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
        # Only resume points have optimizer states; checkpoints with weights only have none.
        if "optimizer_states" in checkpoint:
            states = {name: o.resume_state() for name, o in self._stateful_objectives().items()}
            checkpoint[_OBJECTIVES_KEY] = states
        else:
            self._save_averaged_weights(checkpoint)

    def _save_averaged_weights(self, checkpoint: dict[str, Any]) -> None:
        """Replace the weights in a weights-only checkpoint by their average, if there is one."""
        # The averaged weights are the validated ones. Lightning calls `on_save_checkpoint` of
        # callbacks for full checkpoints only, and would save the weights that training continues
        # from.
        for callback in getattr(self._trainer, "callbacks", ()):
            if isinstance(callback, WeightAveraging):
                callback.on_save_checkpoint(self.trainer, self, checkpoint)
                # Both are needed to resume only, and the first has the size of the model.
                for key in ("current_model_state", "averaging_state"):
                    checkpoint.pop(key, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the objectives."""
        objectives = self._stateful_objectives()
        for name, state in checkpoint.get(_OBJECTIVES_KEY, {}).items():
            if name in objectives:
                objectives[name].load_resume_state(state)

    def check_pairs(self, *, given: bool) -> None:
        """Compare new inputs with the training data: pairs of texts or single texts.

        Pairs for a task trained on single texts are only logged as a warning.

        Args:
            given: True if the new inputs are pairs.

        Raises:
            ValueError: If the task was trained on pairs and gets single texts.
        """
        if self.reads_pairs and not given:
            raise ValueError(
                "the model was trained on pairs of texts, got single texts; pass the second texts "
                "with pairs=[…], on the command line with text_pair=…, or name their column in a "
                "file with data.text_pair=…"
            )
        if given and self.reads_pairs is False:
            log.warning("the model was trained on single texts, got pairs of texts")

    @torch.no_grad()
    def probabilities(self, logits: Tensor) -> Tensor:
        """Convert logits (batch, …, num_outputs) to scores of the same shape.

        Scores are probabilities in [0, 1], or the predicted values for ``regression`` labels.
        """
        if self.labels.kind in ("single_label", "tags"):
            return logits.softmax(dim=-1)
        return logits.sigmoid() if self.labels.kind == "multi_label" else logits


def _accepts(function: Any, name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _check_backbone_and_pooling(backbone: nn.Module, head: nn.Module) -> None:
    """Raise if a backbone and a head cannot be used by a task without target texts.

    Args:
        backbone: Only a :class:`Backbone` is checked; the architecture of another module is
            unknown.
        head: Head, with ``pooling`` if it pools.

    Raises:
        ValueError: If the backbone is an encoder-decoder, or if it is causal and the head pools
            the first token.
    """
    if not isinstance(backbone, Backbone):
        return
    name = type(backbone.model).__name__
    if backbone.is_encoder_decoder:
        raise ValueError(
            f"{name} is an encoder-decoder, and this task has no target texts for its decoder; "
            "choose an encoder or a decoder, such as backbone=minilm. The encoder of a trained "
            "encoder-decoder can be transferred to it with weight_transfer=[encoder]"
        )
    model: PreTrainedModel = backbone.model
    if find_layer_layout(model).causal and getattr(head, "pooling", None) == "cls":
        raise ValueError(
            f"{name} is causal, so the features of the first token do not depend on the rest of "
            f"the text, but {type(head).__name__} has pooling=cls; set head.pooling=last"
        )
