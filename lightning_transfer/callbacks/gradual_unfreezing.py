"""Gradual unfreezing of layers, by a schedule of phases."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_transfer.callbacks.layer_lookup import LayerStack, find_layers, format_depths
from lightning_transfer.callbacks.phases import Phase, Plateau, parse_phases
from lightning_transfer.callbacks.rewarm import Rewarm
from lightning_transfer.callbacks.trainable_set import (
    Freezer,
    TrainableSet,
    check_strategy,
    rewrap_ddp,
    trainable_summary,
    unfreeze,
)

log = logging.getLogger(__name__)


class GradualUnfreezing(Freezer):
    """Unfreeze layers during the training, by a list of phases.

    Howard & Ruder 2018 (arXiv:1801.06146) train the head first and unfreeze one more layer each
    epoch. Any other order is possible with a list of phases, refreezing included (chain-thaw,
    Felbo et al. 2017, arXiv:1708.00524).

    The callback works with any ``LightningModule``, optimizer and scheduler, and changes none of
    them. The optimizer is built while all parameters require grad. It contains every parameter
    from the start, and skips those without a gradient. Schedulers therefore continue across an
    unfreeze, and ratios between learning rates hold.

    The current phase follows from the trainer's epoch and step, so a resumed run equals an
    uninterrupted one. Frozen layers are in eval mode and do not change. Trainable layers are in
    train mode, also in a model from ``from_pretrained``. Under DDP, all ranks change at the same
    step, and frozen parameters cause no traffic. Each change is one line in the log
    ``lightning_transfer`` at level INFO.

    Args:
        phases: Phases in order, each a :class:`Phase` or a mapping with ``from_depth`` and one of
            ``at_epoch``, ``at_step``, ``at_fraction`` and ``at_plateau``. Or a shorthand:
            ``one layer an epoch``, ``one layer every 2 epochs`` (or ``50 steps``, ``5 %``),
            ``head > top 2 > all`` or ``chain-thaw``; the last two divide the run evenly.
        layers: Attribute path of an ordered list of modules from the input up, or a list of
            regexes over parameter names, one per depth. Parameters outside the layers, such as a
            head (or embeddings in no layer), always train, except in phases with
            ``outside: false``.
        rewarm: Length of the warm-up of newly unfrozen parameters in optimizer steps, >= 0. Their
            learning rate rises linearly to that of the scheduler. The first phase has no such
            warm-up. It needs an optimizer group for each depth, such as ``optim.ParameterGroups``
            builds.

    Raises:
        ValueError: If ``rewarm`` is negative. At the start of the fit: if a phase is invalid, the
            layers are not found, the strategy cannot change the trainable parameters, a trainable
            parameter is in no optimizer group or in several, or a group contains parameters of
            several phases although ``rewarm`` > 0. During the fit: if a metric for ``at_plateau``
            is not logged.

    Example:
        >>> GradualUnfreezing(
        ...     layers="bert.encoder.layer",
        ...     phases=[{"from_depth": 2}, {"from_depth": 0, "at_epoch": 1}],
        ... ).phases[1]
        {'from_depth': 0, 'at_epoch': 1}
    """

    def __init__(
        self,
        phases: str | list[dict[str, Any]] | Sequence[Phase] = "one layer an epoch",
        *,
        layers: str | list[str] = "backbone.layers",
        rewarm: int = 0,
    ) -> None:
        """See the class."""
        super().__init__()
        self.rewarm = rewarm
        self._rewarm = Rewarm(rewarm)
        self.phases = phases
        self.layers = layers
        self._plan: tuple[Phase, ...] = ()
        self._stack = LayerStack(0, {})
        self._starts: list[int] = []  # first optimizer step of each phase until now
        self._last_check: tuple[int, int] | None = None  # epoch and step
        self._best: float | None = None  # of the metric for the next phase
        self._wait = 0  # validations without an improvement
        self._due = False  # True if the metric has reached its plateau

    @property
    def phase(self) -> int:
        """Index of the current phase, counted from 0."""
        return max(0, len(self._starts) - 1)

    def frozen_ahead(self) -> list[int]:
        """Return the number of frozen layers below the trainable ones, for each later phase."""
        depths = [phase.depths(self._stack.count) for phase in self._plan[self.phase + 1 :]]
        return [trains.start if trains else self._stack.count for trains in depths]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check module, phases and strategy, before anything runs."""
        if stage != "fit":
            return
        self.check(pl_module)
        check_strategy(trainer)
        unfreeze(pl_module)
        # A trainer with global_step > 0 continues its run. A checkpoint is loaded after this hook.
        if trainer.global_step == 0:
            self._starts = []
        self._rewarm = Rewarm(self.rewarm)  # without the start steps of an earlier fit

    def check(self, pl_module: LightningModule) -> None:
        """Raise if the phases and layers do not fit a module.

        Raises:
            ValueError: If a phase is invalid or the layers are not found.
        """
        self._stack = find_layers(pl_module, self.layers)
        self._plan = parse_phases(self.phases, self._stack.count)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the trainable parameters, and check that the optimizers contain them."""
        self._trainable = TrainableSet(pl_module, self._stack.modules)
        self._trainable.set_modes()
        self._last_check = None
        check_optimizers(trainer.optimizers, pl_module, self._trainable.names)
        self._check_rewarm(trainer.optimizers, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the phase of the current step, also in a resumed run."""
        self._advance(trainer)
        if self.rewarm:
            self._rewarm.attach(trainer.optimizers, now=lambda: trainer.global_step)
        self._apply(trainer, pl_module)
        self._warn_of_late_phases(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the next phase if it is due, and set the modes again."""
        if self._advance(trainer):
            self._apply(trainer, pl_module)
        elif self._trainable is not None:
            # A validation between the epochs may have changed the modes.
            self._trainable.set_modes()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the next phase if it is due."""
        if self._advance(trainer):
            self._apply(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the metric for the next phase, if it starts at a plateau."""
        following = len(self._starts)
        if trainer.sanity_checking or self._due or not 0 < following < len(self._plan):
            return
        plateau = self._plan[following].at_plateau
        if plateau is not None:
            self._check_plateau(trainer, plateau)

    def _check_plateau(self, trainer: Trainer, plateau: Plateau) -> None:
        if plateau.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ValueError(
                f"at_plateau.monitor: unknown metric {plateau.monitor!r}; logged metrics: {known}"
            )
        value = float(trainer.callback_metrics[plateau.monitor])
        improved = plateau.improves(value, self._best)
        # A metric logged without sync_dist differs between ranks, but all must decide the same.
        if trainer.strategy.reduce_boolean_decision(improved, all=False):
            self._best, self._wait = value, 0
        else:
            self._wait += 1
            self._due = self._wait > plateau.patience

    def _advance(self, trainer: Trainer) -> bool:
        """Start the phases due now; return True if there is any."""
        now = (trainer.current_epoch, trainer.global_step)
        if now == self._last_check:  # between accumulated batches, and twice at an epoch's start
            return False
        self._last_check = now
        begun = len(self._starts)
        while len(self._starts) < len(self._plan):
            if self._starts and not self._is_due(self._plan[len(self._starts)], trainer):
                break
            self._starts.append(trainer.global_step)
            self._best, self._wait, self._due = None, 0, False
        return len(self._starts) > begun

    def _is_due(self, phase: Phase, trainer: Trainer) -> bool:
        kind, value = phase.start
        if kind == "at_plateau":
            return self._due
        if kind == "at_epoch":
            return trainer.current_epoch >= value
        if kind == "at_fraction":
            total = trainer.estimated_stepping_batches
            if math.isinf(total):
                raise ValueError(
                    f"at_fraction={value:g} needs the length of the run, which is unlimited; set "
                    "max_epochs or max_steps, or start the phase at_epoch or at_step"
                )
            value = math.ceil(value * total)
        return trainer.global_step >= value

    def _warn_of_late_phases(self, trainer: Trainer) -> None:
        """Warn of phases after the end of the run."""
        # Neither limit is known for a run limited by time, and a plateau has no fixed start.
        last_epoch = math.inf if (trainer.max_epochs or -1) < 0 else trainer.max_epochs
        last_step = math.inf if trainer.max_steps < 0 else trainer.max_steps
        ends = {"at_epoch": last_epoch, "at_step": last_step}
        late = [p for p in self._plan if p.start[1] >= (ends.get(p.start[0]) or math.inf)]
        if late and trainer.is_global_zero:
            kind, value = late[0].start
            log.warning(
                "phase %d of %d never starts: its start is %s=%d, and the run ends before",
                self._plan.index(late[0]) + 1,
                len(self._plan),
                kind,
                value,
            )

    def _apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze and unfreeze by the current phase."""
        assert self._trainable is not None  # since on_fit_start
        phase = self._plan[self.phase]
        depths = phase.depths(self._stack.count)
        frozen = self._trainable.names - self._trainable_in(self.phase)
        modules = [m for depth, m in enumerate(self._stack.modules) if depth not in depths]
        if self._trainable.freeze(frozen, modules):
            rewrap_ddp(trainer)
        self._trainable.set_modes()
        if self.rewarm:
            named = dict(pl_module.named_parameters())
            # All earlier phases too: after a resume their warm-ups may not be over.
            for begun in range(1, self.phase + 1):
                new = [named[name] for name in self._newly_trainable_in(begun)]
                self._rewarm.start(new, self._starts[begun])
        if trainer.is_global_zero:
            log.info("%s", self._line(trainer, pl_module, depths, phase))

    def _trainable_in(self, phase: int) -> set[str]:
        """Return the names of the trainable parameters of a phase."""
        assert self._trainable is not None  # since on_fit_start
        depths = self._plan[phase].depths(self._stack.count)
        depth_of = self._stack.depth_of
        return {
            name
            for name in self._trainable.names
            if (depth_of[name] in depths if name in depth_of else self._plan[phase].outside)
        }

    def _newly_trainable_in(self, phase: int) -> set[str]:
        """Return the names of the parameters trainable in a phase but not in the previous one."""
        return self._trainable_in(phase) - self._trainable_in(phase - 1)

    def _check_rewarm(self, optimizers: Sequence[Optimizer], module: LightningModule) -> None:
        """Raise if only a part of an optimizer group would have to warm up."""
        # Rewarm checks this too, but only when the phase starts, perhaps hours later.
        named = dict(module.named_parameters())
        for phase in range(1, len(self._plan) if self.rewarm else 1):
            new, trains = self._newly_trainable_in(phase), self._trainable_in(phase)
            new_ids = {id(named[name]) for name in new}
            trains_ids = {id(named[name]) for name in trains}
            for optimizer in optimizers:
                for number, group in enumerate(optimizer.param_groups):
                    inside = {id(parameter) for parameter in group["params"]} & trains_ids
                    if inside & new_ids and not inside <= new_ids:
                        raise ValueError(
                            f"rewarm={self.rewarm} needs an optimizer group for each depth, but "
                            f"phase {phase + 1} unfreezes only a part of {_name(group, number)}; "
                            "use optim.ParameterGroups or rewarm=0"
                        )

    def _line(
        self, trainer: Trainer, pl_module: LightningModule, depths: range, phase: Phase
    ) -> str:
        parts = [format_depths(depths)] if depths else []
        parts += ["parameters outside the layers"] if phase.outside else []
        return (
            f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}: phase "
            f"{self.phase + 1} of {len(self._plan)} trains {' and '.join(parts) or 'nothing'}, "
            f"{trainable_summary(pl_module)}; learning rates {_rates(trainer.optimizers)}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the start steps of the phases until now, and the state of a plateau."""
        return {
            "plan": self._signature(),
            "starts": list(self._starts),
            "best": self._best,
            "wait": self._wait,
            "due": self._due,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state of an interrupted run, if it had the same phases."""
        if state_dict["plan"] != self._signature():
            log.warning(
                "the checkpoint has other phases of unfreezing; the phases of this run apply from "
                "the current step on"
            )
            return
        self._starts = list(state_dict["starts"])
        self._best, self._wait = state_dict["best"], state_dict["wait"]
        self._due = state_dict["due"]

    def _signature(self) -> str:
        """Return the phases as text; part of the checkpoint format."""
        return "; ".join(str(phase) for phase in self._plan)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the parameters and the optimizers."""
        self._rewarm.detach()
        super().teardown(trainer, pl_module, stage)


def check_optimizers(
    optimizers: Sequence[Optimizer], module: LightningModule, names: set[str]
) -> None:
    """Raise unless each of the given parameters is in exactly one optimizer group.

    Args:
        optimizers: Optimizers of the fit.
        module: The module to train.
        names: Parameter names, as in ``named_parameters()``.

    Raises:
        ValueError: If a parameter is in no group or in several. The message names it.
    """
    count: dict[int, int] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                count[id(parameter)] = count.get(id(parameter), 0) + 1
    for name, parameter in module.named_parameters():
        if name in names and (found := count.get(id(parameter), 0)) != 1:
            raise ValueError(
                f"{name} is trainable and must be in one optimizer group, got {found} groups; pass "
                "all parameters to the optimizer in configure_optimizers, or call "
                "requires_grad_(False) before the fit if the parameter is never trained"
            )


def _name(group: Mapping[str, Any], number: int) -> str:
    return str(group.get("name", f"group {number}"))


def _rates(optimizers: Sequence[Optimizer]) -> str:
    """Return the learning rates of the groups with trainable parameters, as text."""
    rates: dict[str, list[str]] = {}
    for optimizer in optimizers:
        for number, group in enumerate(optimizer.param_groups):
            if any(parameter.requires_grad for parameter in group["params"]):
                name = _name(group, number).removesuffix(", no decay")
                # Each depth has a group with weight decay and one without, of the same rate.
                names = rates.setdefault(f"{float(group['lr']):.2e}", [])
                if name not in names:
                    names.append(name)
    return ", ".join(f"{rate} ({', '.join(names)})" for rate, names in rates.items()) or "none"
