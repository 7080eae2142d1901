"""Freezing from the input up, as soon as the gradients say that it may be."""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn, ones
from torch.optim import Optimizer

from lightning_transfer.callbacks.gradient_sums import GradientSums, changes, resting, threshold
from lightning_transfer.callbacks.gradual_unfreezing import check_optimizers
from lightning_transfer.callbacks.layer_lookup import Layers, find_layers, name_depths
from lightning_transfer.callbacks.trainable_set import (
    Freezer,
    TrainableSet,
    check_strategy,
    count_line,
    thaw,
    wrap_again,
)

log = logging.getLogger(__name__)


class AutoFreeze(Freezer):
    """Freeze layers from the input up, once their gradients have come to rest.

    After Liu et al. 2021 (AutoFreeze, arXiv:2102.01386). Gradients are summed over intervals of
    equal length. Between two intervals the norm of a layer's sum changes by some share of itself;
    layers whose change is below a percentile of those of all layers that still train are at rest,
    and the unbroken run of them that begins above what is frozen is frozen too, for the rest of
    the run. Nothing is unfrozen, and the topmost layer always trains.

    As theirs, the embeddings have no test of their own and freeze with the layer above: which rows
    of the table have a gradient depends on the texts of an interval more than on the training.
    Where we differ: the norm is the 2-norm, estimated from an eleventh of
    the values of each large tensor, where theirs is the 1-norm of all, which spares time, memory
    and large checkpoints; and optimizer and schedule go on as they are, where theirs begin anew.

    It works with any ``LightningModule``, optimizer and scheduler, as :class:`GradualUnfreezing`
    does: frozen layers are in eval mode, take no gradient, change by nothing and cause no traffic
    under DDP, where all ranks freeze at the same step. Gradients are read just before the
    optimizer's step: averaged over the ranks, accumulated and unscaled, but not clipped, since a
    clipped norm says how much was clipped. What has been frozen, and the sums so far, are in the
    checkpoint, so that a resumed run goes on as if nothing had happened. Each change is one line
    in the log ``lightning_transfer`` at level INFO.

    Args:
        percentile: Of the changes of the layers that train; layers below it are at rest, in
            (0, 100]. Larger freezes earlier; the paper's is 50.
        every: Length of an interval: ``5 %`` of the run's optimizer steps, ``0.5 epochs``,
            ``50 steps`` or a number of optimizer steps >= 1. The first test is after two.
        start: When the first interval begins, in the same forms, >= 0: after the warm-up of the
            learning rate, which a new head needs, too, before the gradients below it mean much.
        keep: How many layers at the top are never frozen, >= 0.
        layers: Where the layers are: the attribute path of an ordered list of modules from the
            input up, or a list of regexes over parameter names, one a depth. What lies outside,
            such as a head (or embeddings that are in no layer), always trains.

    Raises:
        ValueError: If a value is out of its range; if (at the start of the fit) the layers are not
            found, or ``keep`` leaves none to freeze; if an interval depends on the length of a run
            without an end; if the strategy cannot change what trains; or if a parameter that is to
            train is in no optimizer, or in two.

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
        if type(percentile) not in (int, float) or not 0 < percentile <= 100:
            raise ValueError(f"percentile must be in (0, 100], got {percentile!r}")
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise ValueError(f"keep must be a whole number of layers >= 0, got {keep!r}")
        if _span("every", every)[0] == 0:
            raise ValueError(f"every must be > 0, got {every!r}; it is the length of an interval")
        _span("start", start)
        self.percentile = percentile
        self.every = every
        self.start = start
        self.keep = keep
        self.layers = layers
        self._found = Layers(0, {})
        self._moving: dict[int, str] = {}  # ids and names of parameters whose gradients are summed
        self._interval, self._start = 1, 0  # optimizer steps
        self._tests: range = range(0)  # the layers that have a test of their own
        self._begin()

    def _begin(self) -> None:
        """Begin a run in which nothing is known yet."""
        self.frozen = 0
        self._sums = GradientSums()
        self._steps = 0  # those of the interval so far
        self._before: dict[int, float] = {}  # norms of the interval before
        self._made_with: int | None = None  # the interval of the checkpoint that is gone on with

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the module, so that mistakes are told before anything runs."""
        if stage != "fit":
            return
        self.check(pl_module)
        check_strategy(trainer)
        thaw(pl_module)
        if trainer.global_step == 0:  # what a resumed run knows comes with its checkpoint
            self._begin()

    def check(self, pl_module: LightningModule) -> None:
        """Raise what is wrong with the layers of a module.

        Raises:
            ValueError: As the class says.
        """
        self._found = find_layers(pl_module, self.layers)
        lowest = self._found.modules[:1]
        table = any(isinstance(m, nn.Embedding) for layer in lowest for m in layer.modules())
        self._tests = range(int(table), self._found.count)
        if self.keep >= self._found.count:
            raise ValueError(
                f"keep={self.keep} leaves nothing to freeze of {self._found.count} layers; give "
                f"at most {self._found.count - 1}"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what can train, and check that an optimizer has it."""
        self._trainable = TrainableSet(pl_module, self._found.modules)
        self._trainable.set_modes()
        check_optimizers(trainer.optimizers, pl_module, self._trainable.names)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze what a resumed run had frozen, and settle how long an interval is."""
        self._interval = max(1, _steps(trainer, "every", self.every))
        self._start = _steps(trainer, "start", self.start)
        if self._made_with not in (None, self._interval):
            log.warning(
                "the checkpoint was made with intervals of %s steps, and now they have %d; the "
                "layers that it froze stay frozen, and the next test is after two of them",
                self._made_with,
                self._interval,
            )
            self._sums, self._steps, self._before = GradientSums(), 0, {}
        self._made_with = None
        self._apply(trainer, pl_module)
        first = self._start + 2 * self._interval
        if trainer.is_global_zero and first >= trainer.estimated_stepping_batches:
            log.warning(
                "the first test would be at step %d, and the run ends at step %d; nothing is ever "
                "frozen: shorten every=%s or start=%s",
                first,
                trainer.estimated_stepping_batches,
                self.every,
                self.start,
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the modes again, after what was between the epochs."""
        if self._trainable is not None:
            self._trainable.set_modes()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Test the layers if an interval is over; never between two parts of a step."""
        if self._steps >= self._interval:
            self._test(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add this step's gradients, which no one has clipped yet."""
        if not self._moving or trainer.global_step < self._start:
            return
        self._steps += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._moving and parameter.grad is not None:
                    gradient = parameter.grad
                    scale = _loss_scale(trainer, optimizer, gradient)
                    self._sums.add(self._moving[id(parameter)], gradient, scale=scale)

    def _test(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the interval with the one before, and freeze what is at rest."""
        before, self._before = self._before, self._sums.norms(self._found.depth_of)
        self._sums, self._steps = GradientSums(), 0
        if not all(map(math.isfinite, self._before.values())):
            self._before = {}  # such an interval can be compared with none
        change = changes(before, self._before)
        if not change:
            return
        depths = range(self.frozen, self._found.count - self.keep)
        # Averaged gradients are the same on all ranks, unless a strategy sums them in any order.
        boundary = trainer.strategy.broadcast(resting(change, self.percentile, depths))
        if boundary == self.frozen:
            return
        newly, self.frozen = range(self.frozen, boundary), boundary
        self._apply(trainer, pl_module)
        if trainer.is_global_zero:
            log.info(
                "epoch %d, step %d: froze %s, whose gradient norms changed by less than %.3g %%; "
                "%s train",
                trainer.current_epoch + 1,
                trainer.global_step,
                name_depths(newly),
                100 * threshold(change, self.percentile),
                count_line(pl_module),
            )

    def _apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the layers below the boundary be frozen."""
        assert self._trainable is not None  # since on_fit_start
        depth_of = self._found.depth_of
        frozen = {n for n in self._trainable.names if depth_of.get(n, self.frozen) < self.frozen}
        if self._trainable.freeze(frozen, self._found.modules[: self.frozen]):
            wrap_again(trainer)
        self._trainable.set_modes()
        open_to_tests = self.frozen < self._found.count - self.keep
        self._moving = {
            id(parameter): name
            for name, parameter in pl_module.named_parameters()
            if open_to_tests and depth_of.get(name) in self._tests and parameter.requires_grad
        }

    def state_dict(self) -> dict[str, Any]:
        """Return how many layers are frozen, and what is known of the interval."""
        return {
            "frozen": self.frozen,
            "interval": self._interval,
            "steps": self._steps,
            "sums": dict(self._sums.sums),
            "before": dict(self._before),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with what was begun."""
        self._begin()
        self.frozen = state_dict["frozen"]
        self._made_with = state_dict["interval"]
        self._steps = state_dict["steps"]
        self._sums.sums = dict(state_dict["sums"])
        self._before = dict(state_dict["before"])


def _span(name: str, given: int | str) -> tuple[float, str]:
    """Return number and unit of a stretch of the run.

    Raises:
        ValueError: If it is in none of the known forms.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(%|epochs?|steps?|)", str(given).strip().lower())
    if found is None or (found[2] in ("", "step", "steps") and "." in found[1]):
        raise ValueError(
            f"{name} must be a number of optimizer steps, or such as 5 %, 0.5 epochs or 50 steps, "
            f"got {given!r}"
        )
    return float(found[1]), found[2].removesuffix("s")


def _steps(trainer: Trainer, name: str, given: int | str) -> int:
    """Return the optimizer steps of a stretch of a trainer's run.

    Raises:
        ValueError: If its length depends on that of a run, or an epoch, that has none.
    """
    number, unit = _span(name, given)
    if unit in ("", "step"):
        return int(number)
    if unit == "epoch":
        whole = trainer.num_training_batches / trainer.accumulate_grad_batches
    else:
        number, whole = number / 100, trainer.estimated_stepping_batches
    if math.isinf(whole):
        raise ValueError(
            f"{name}={given!r} needs to know how long the {'epoch' if unit == 'epoch' else 'run'} "
            f"is, and it has no end; give {name} as a number of optimizer steps"
        )
    return round(number * whole)


def _loss_scale(trainer: Trainer, optimizer: Optimizer, gradient: Tensor) -> Tensor | None:
    """Return what a gradient is multiplied by, of shape (); None where losses are not scaled.

    Most optimizers' gradients are unscaled by now; fused ones do that as they step.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None:
        return None
    one = ones((), device=gradient.device)
    scaled: Tensor = scaler.scale(one)  # no transfer from the device, unlike get_scale()
    return scaled if getattr(optimizer, "_step_supports_amp_scaling", False) else one
