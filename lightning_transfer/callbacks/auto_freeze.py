"""AutoFreeze: freeze layers from the input up, based on their gradients (arXiv:2102.01386)."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_transfer.callbacks.gradual_unfreezing import check_optimizers
from lightning_transfer.callbacks.layer_lookup import LayerStack, find_layers, format_depths
from lightning_transfer.callbacks.trainable_set import (
    Freezer,
    TrainableSet,
    check_strategy,
    rewrap_ddp,
    trainable_summary,
    unfreeze,
)

log = logging.getLogger(__name__)

_SMALL = 4096  # values; gradients up to this size are summed completely
# Larger gradients: every eleventh line of 16 float32 values, the size of a processor's cache line,
# so that the other lines are not even read from memory. Eleven divides the number of lines in a
# row of hardly any model, so the sample meets every row and every column of a matrix.
_LINE, _EVERY = 16, 11


class AutoFreeze(Freezer):
    """Freeze layers from the input up, once their gradients have settled.

    Liu et al. 2021 (AutoFreeze, arXiv:2102.01386). Gradients are summed over intervals of equal
    length. Between two intervals, the norm of a layer's summed gradient changes by some fraction.
    A layer has settled if its change is below a percentile of the changes of all trainable layers.
    The settled layers directly above the frozen ones are frozen too, for the rest of the run.
    Nothing is unfrozen, and the topmost layer always trains.

    As in the paper, the embeddings are not tested, and freeze together with the layer above: the
    rows with a gradient depend on the texts of an interval more than on the training. Differences
    from the paper:

    - The norm is the 2-norm, estimated from one eleventh of the values of each large tensor. The
      paper computes the 1-norm of all values. The estimate saves time, memory and large
      checkpoints.
    - Optimizer and scheduler continue. In the paper they restart.

    The callback works with any ``LightningModule``, optimizer and scheduler. Frozen layers are in
    eval mode, have no gradient, do not change, and cause no traffic under DDP, where all ranks
    freeze at the same step. A resumed run equals an uninterrupted one: the checkpoint contains the
    number of frozen layers and the sums of the current interval. Each change is one line in the
    log ``lightning_transfer`` at level INFO.

    Args:
        percentile: Percentile of the changes of the trainable layers, in (0, 100]; layers below it
            have settled. Larger values freeze earlier; the paper uses 50.
        every: Length of an interval: ``5 %`` of the run's optimizer steps, ``0.5 epochs``,
            ``50 steps`` or a number of optimizer steps >= 1. The first test is after two
            intervals.
        start: Start of the first interval, in the same forms, >= 0. Choose the end of the warm-up:
            gradients below a new head mean little before it.
        keep: Number of layers at the top that are never frozen, >= 0.
        layers: Attribute path of an ordered list of modules from the input up, or a list of
            regexes over parameter names, one per depth. Parameters outside the layers, such as a
            head (or embeddings in no layer), always train.

    Raises:
        ValueError: If a value is out of range. At the start of the fit: if the layers are not
            found, ``keep`` leaves no layer to freeze, an interval depends on the length of a run
            without an end, the strategy cannot change the trainable parameters, or a trainable
            parameter is in no optimizer group or in several.

    Example:
        >>> AutoFreeze(every="0.5 epochs", keep=2, layers="bert.encoder.layer").every
        '0.5 epochs'
    """

    def __init__(
        self,
        percentile: float = 50.0,
        *,
        every: int | str = "10 %",
        start: int | str = 0,
        keep: int = 1,
        layers: str | list[str] = "backbone.layers",
    ) -> None:
        """See the class."""
        super().__init__()
        # Not isinstance: True is an int.
        if type(percentile) not in (int, float) or not 0 < percentile <= 100:
            raise ValueError(f"percentile must be in (0, 100], got {percentile!r}")
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise ValueError(f"keep must be an integer >= 0, got {keep!r}")
        if _parse_length("every", every)[0] == 0:
            raise ValueError(f"every must be > 0, got {every!r}; it is the length of an interval")
        _parse_length("start", start)
        self.percentile = percentile
        self.every = every
        self.start = start
        self.keep = keep
        self.layers = layers
        self._stack = LayerStack(0, {})
        self._summed: dict[int, str] = {}  # id and name of the parameters with summed gradients
        self._interval, self._start = 1, 0  # optimizer steps
        self._tested_depths: range = range(0)
        self._reset()

    def _reset(self) -> None:
        """Reset the state to that of a new run."""
        self.frozen = 0
        self._sums = GradientSums()
        self._steps = 0  # optimizer steps summed in the current interval
        self._previous: dict[int, float] = {}  # norm of each layer in the previous interval
        self._resumed_interval: int | None = None  # interval length of the loaded checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check module and strategy, before anything runs."""
        if stage != "fit":
            return
        self.check(pl_module)
        check_strategy(trainer)
        unfreeze(pl_module)
        # A trainer with global_step > 0 continues its run. A checkpoint is loaded after this hook.
        if trainer.global_step == 0:
            self._reset()

    def check(self, pl_module: LightningModule) -> None:
        """Raise if the arguments do not fit a module.

        Raises:
            ValueError: If the layers are not found, or ``keep`` leaves no layer to freeze.
        """
        self._stack = find_layers(pl_module, self.layers)
        lowest = self._stack.modules[:1]
        table = any(isinstance(m, nn.Embedding) for layer in lowest for m in layer.modules())
        self._tested_depths = range(int(table), self._stack.count)
        if self.keep >= self._stack.count:
            raise ValueError(
                f"keep={self.keep} leaves no layer to freeze: the module has {self._stack.count} "
                f"layers; keep must be at most {self._stack.count - 1}"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the trainable parameters, and check that the optimizers contain them."""
        self._trainable = TrainableSet(pl_module, self._stack.modules)
        self._trainable.set_modes()
        check_optimizers(trainer.optimizers, pl_module, self._trainable.names)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the layers of a resumed run, and compute the length of an interval."""
        self._interval = max(1, _to_steps(trainer, "every", self.every))
        self._start = _to_steps(trainer, "start", self.start)
        if self._resumed_interval not in (None, self._interval):
            # Sums over different numbers of steps cannot be compared.
            log.warning(
                "the checkpoint has intervals of %s steps, this run has intervals of %d steps; "
                "layers frozen in the checkpoint stay frozen, and the next test is after two "
                "intervals",
                self._resumed_interval,
                self._interval,
            )
            self._sums, self._steps, self._previous = GradientSums(), 0, {}
        self._resumed_interval = None
        self._apply(trainer, pl_module)
        first = self._start + 2 * self._interval
        if trainer.is_global_zero and first >= trainer.estimated_stepping_batches:
            log.warning(
                "AutoFreeze never freezes a layer: its first test would be at step %d, but the run "
                "ends at step %d; reduce every=%s or start=%s",
                first,
                trainer.estimated_stepping_batches,
                self.every,
                self.start,
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the modes again: a validation between the epochs may have changed them."""
        if self._trainable is not None:
            self._trainable.set_modes()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Test the layers at the end of an interval."""
        # An interval ends with an optimizer step, so this is never between accumulated batches.
        if self._steps >= self._interval:
            self._end_interval(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradients of this step: accumulated, averaged over ranks, not yet clipped."""
        # Norms of clipped gradients would measure the clipping.
        if not self._summed or trainer.global_step < self._start:
            return
        self._steps += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._summed and parameter.grad is not None:
                    gradient = parameter.grad
                    scale = _loss_scale(trainer, optimizer, gradient)
                    self._sums.add(self._summed[id(parameter)], gradient, scale=scale)

    def _end_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the interval with the previous one, and freeze the settled layers."""
        previous, self._previous = self._previous, self._sums.norms(self._stack.depth_of)
        self._sums, self._steps = GradientSums(), 0
        if not all(map(math.isfinite, self._previous.values())):
            self._previous = {}  # neither this test nor the next one can use the interval
        change = relative_changes(previous, self._previous)
        if not change:
            return
        depths = range(self.frozen, self._stack.count - self.keep)
        boundary = settled_boundary(change, self.percentile, depths)
        # Averaged gradients are equal on all ranks, unless a strategy sums them in varying order.
        boundary = trainer.strategy.broadcast(boundary)
        if boundary == self.frozen:
            return
        newly, self.frozen = range(self.frozen, boundary), boundary
        self._apply(trainer, pl_module)
        if trainer.is_global_zero:
            log.info(
                "epoch %d, step %d: froze %s, gradient norms changed by less than %.3g %%; "
                "%s trainable",
                trainer.current_epoch + 1,
                trainer.global_step,
                format_depths(newly),
                100 * change_threshold(change, self.percentile),
                trainable_summary(pl_module),
            )

    def _apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the layers below the boundary ``self.frozen``."""
        assert self._trainable is not None  # since on_fit_start
        depth_of = self._stack.depth_of
        frozen = {n for n in self._trainable.names if depth_of.get(n, self.frozen) < self.frozen}
        if self._trainable.freeze(frozen, self._stack.modules[: self.frozen]):
            rewrap_ddp(trainer)
        self._trainable.set_modes()
        # Without a layer left to freeze, sums would only cost time.
        has_candidates = self.frozen < self._stack.count - self.keep
        self._summed = {
            id(parameter): name
            for name, parameter in pl_module.named_parameters()
            if has_candidates
            and depth_of.get(name) in self._tested_depths
            and parameter.requires_grad
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the number of frozen layers, and the sums of the current interval."""
        return {
            "frozen": self.frozen,
            "interval": self._interval,
            "steps": self._steps,
            "sums": dict(self._sums.sums),
            "before": dict(self._previous),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state of an interrupted run."""
        self._reset()
        self.frozen = state_dict["frozen"]
        self._resumed_interval = state_dict["interval"]
        self._steps = state_dict["steps"]
        self._sums.sums = dict(state_dict["sums"])
        self._previous = dict(state_dict["before"])


class GradientSums:
    """Sums of gradients over several steps, for estimates of each layer's gradient norm.

    Large gradients are sampled (see ``_LINE`` and ``_EVERY``). Sums of all values would need as
    much memory and checkpoint space as the model, and up to 2 % of a step's time.
    """

    def __init__(self) -> None:
        """See the class."""
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, gradient: Tensor, *, scale: Tensor | None = None) -> None:
        """Add the gradient of one step.

        Args:
            name: Name of the parameter.
            gradient: Gradient of the parameter's shape, dense or sparse, of any float dtype.
            scale: Factor of the loss scaling in the gradient, of shape ``()``. Values that are not
                finite then count as 0. None without loss scaling.
        """
        sample = _sample(gradient.detach())  # (values,) or (lines, 16)
        share = sample.numel() / gradient.numel() if gradient.numel() else 1.0
        if scale is not None:
            # Infinite values are a normal result of loss scaling; the optimizer skips such a step.
            sample = sample.float().nan_to_num(0.0, 0.0, 0.0) / scale
        if name not in self.sums:
            self.sums[name] = torch.zeros(sample.shape, dtype=torch.float32, device=sample.device)
        elif self.sums[name].device != sample.device:  # loaded from a checkpoint
            self.sums[name] = self.sums[name].to(sample.device)
        # The square of the sampled norm is only ``share`` of the full one. Without the correction,
        # biases and norms, which are summed completely, would count eleven times.
        self.sums[name].add_(sample, alpha=share**-0.5)

    def norms(self, depth_of: Mapping[str, int]) -> dict[int, float]:
        """Return the estimated 2-norm of the summed gradient of each layer.

        Args:
            depth_of: Depth of the layer of each parameter.

        Returns:
            Norm by depth; layers without a gradient are absent.
        """
        depths = sorted({depth_of[name] for name in self.sums})
        if not depths:
            return {}
        squares = [
            torch.stack([s.square().sum() for name, s in self.sums.items() if depth_of[name] == d])
            for d in depths
        ]
        norms = torch.stack([square.sum().sqrt() for square in squares])  # (layers,)
        # One transfer from the device for all layers.
        return dict(zip(depths, norms.tolist(), strict=True))

    def clear(self) -> None:
        """Start a new interval."""
        self.sums = {}


def _sample(gradient: Tensor) -> Tensor:
    """Return the values to sum, as a view if the gradient is dense."""
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    flat = gradient.reshape(-1)  # (values,)
    if flat.numel() <= _SMALL:
        return flat
    lines = flat.numel() // _LINE
    return flat[: lines * _LINE].view(lines, _LINE)[::_EVERY]  # (lines / 11, 16)


def relative_changes(before: Mapping[int, float], now: Mapping[int, float]) -> dict[int, float]:
    """Return the relative change of each layer's norm, >= 0.

    Equation 1 of the paper, ``| |before| - |now| | / |before|``; 0 if both norms are 0, infinite
    if only the first is.

    Args:
        before: Norm of each layer's summed gradient in one interval.
        now: The same in the next interval.

    Returns:
        Change by depth, for the layers in both intervals.
    """
    found = {}
    for depth, norm in now.items():
        if depth in before:
            moved = abs(before[depth] - norm)
            found[depth] = moved / before[depth] if before[depth] else (math.inf if moved else 0.0)
    return found


def settled_boundary(change: Mapping[int, float], percentile: float, depths: Sequence[int]) -> int:
    """Return the number of layers to freeze, from the input up.

    Args:
        change: Relative change of norm of each trainable layer, by depth.
        percentile: Percentile of the changes, in (0, 100]. Layers below it have settled.
        depths: Depths of the candidates, ascending without gaps. Those without a change have no
            trainable parameters and are passed over.

    Returns:
        The depth above the last of the consecutive settled layers at the start of ``depths``; the
        first of ``depths`` if there is none.
    """
    below = change_threshold(change, percentile)
    boundary = depths[0]
    for depth in depths:
        if depth in change:
            if change[depth] >= below:
                break
            boundary = depth + 1
    return boundary


def change_threshold(change: Mapping[int, float], percentile: float) -> float:
    """Return the percentile of the changes, with linear interpolation."""
    # Interpolation with an infinite value would give NaN; it becomes the largest float.
    finite = np.nan_to_num(list(change.values()))
    return float(np.percentile(finite, percentile))


def _parse_length(name: str, given: int | str) -> tuple[float, str]:
    """Return number and unit of a part of the run; the unit is ``%``, ``epoch``, ``step`` or empty.

    Raises:
        ValueError: If the text has none of the known forms.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(%|epochs?|steps?|)", str(given).strip().lower())
    if found is None or (found[2] in ("", "step", "steps") and "." in found[1]):
        raise ValueError(
            f"{name} must be a number of optimizer steps, or a length such as '5 %', '0.5 epochs' "
            f"or '50 steps', got {given!r}"
        )
    return float(found[1]), found[2].removesuffix("s")


def _to_steps(trainer: Trainer, name: str, given: int | str) -> int:
    """Return a part of the run in optimizer steps.

    Raises:
        ValueError: If it is a part of a run, or of an epoch, without an end.
    """
    number, unit = _parse_length(name, given)
    if unit in ("", "step"):
        return int(number)
    if unit == "epoch":
        whole = trainer.num_training_batches / trainer.accumulate_grad_batches
    else:
        number, whole = number / 100, trainer.estimated_stepping_batches
    if math.isinf(whole):
        raise ValueError(
            f"{name}={given!r} needs the length of the {'epoch' if unit == 'epoch' else 'run'}, "
            f"which is unlimited; give {name} as a number of optimizer steps"
        )
    return round(number * whole)


def _loss_scale(trainer: Trainer, optimizer: Optimizer, gradient: Tensor) -> Tensor | None:
    """Return the loss-scaling factor in a gradient, of shape ``()``; None without loss scaling."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None:
        return None
    one = torch.ones((), device=gradient.device)
    scaled: Tensor = scaler.scale(one)  # no transfer from the device, unlike get_scale()
    # Lightning has unscaled the gradients of most optimizers by now. Fused ones unscale in step().
    return scaled if getattr(optimizer, "_step_supports_amp_scaling", False) else one
