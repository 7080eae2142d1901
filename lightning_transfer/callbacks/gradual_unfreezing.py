"""Gradual unfreezing on a schedule."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_transfer.callbacks.layer_lookup import Layers, find_layers, name_depths
from lightning_transfer.callbacks.phases import Phase, Plateau, parse_phases
from lightning_transfer.callbacks.rewarm import Rewarm
from lightning_transfer.callbacks.trainable_set import (
    Freezer,
    TrainableSet,
    check_strategy,
    count_line,
    thaw,
    wrap_again,
)

log = logging.getLogger(__name__)


class GradualUnfreezing(Freezer):
    """Train some layers first and others later, by a list of phases.

    After Howard & Ruder 2018 (arXiv:1801.06146), who start from the head and unfreeze one more
    layer each epoch; any other order is a list of phases too, refreezing included (chain-thaw,
    Felbo et al. 2017, arXiv:1708.00524). It works with any ``LightningModule``, optimizer and
    scheduler, because none of them is touched: the optimizer is made while everything requires a
    gradient, so it holds every parameter from the start, and passes over those that have none.
    Schedulers therefore go on across an unfreeze, and ratios between learning rates hold.

    Which phase is in force is decided from the trainer's epoch and step before each step, so that
    a resumed run is where it would have been. Frozen layers are in eval mode and change by
    nothing; trainable ones are in train mode, also when the model came from ``from_pretrained``.
    Under DDP all ranks change at the same step, and frozen parameters cause no traffic.

    Each change is one line in the log ``lightning_transfer`` at level INFO.

    Args:
        phases: From the first to the last, each a :class:`Phase` or a mapping with ``from_depth``
            and one of ``at_epoch``, ``at_step``, ``at_fraction`` and ``at_plateau``; or a
            shorthand: ``one layer an epoch``, ``one layer every 2 epochs`` (or ``50 steps``,
            ``5 %``), ``head > top 2 > all`` or ``chain-thaw``, which spread evenly over the run.
        layers: Where the layers are: the attribute path of an ordered list of modules from the
            input up, or a list of regexes over parameter names, one a depth. What lies outside,
            such as a head (or embeddings that are in no layer), always trains, unless a phase says
            ``outside: false``.
        rewarm: Optimizer steps over which the learning rate of newly unfrozen parameters rises
            again to what the scheduler says, >= 0; the first phase is the scheduler's own affair.
            It needs an optimizer group for each depth, as ``optim.ParameterGroups`` makes them.

    Raises:
        ValueError: If a phase or the layers are not understood (at the start of the fit, since
            only then there is a module to look at); if the strategy cannot change what trains; if
            a parameter that is to train is in no optimizer, or in two; or if a group would have to
            warm up a part of its parameters.

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
        self._found = Layers(0, {})
        self._starts: list[int] = []  # the optimizer step at which each phase so far began
        self._seen: tuple[int, int] | None = None  # epoch and step of the last look
        self._best: float | None = None
        self._wait = 0
        self._due = False  # whether the next phase begins because of a plateau

    @property
    def phase(self) -> int:
        """Position of the phase in force, counted from 0."""
        return max(0, len(self._starts) - 1)

    def frozen_ahead(self) -> list[int]:
        """Return how many of the lowest layers are frozen in each phase that is still to begin."""
        depths = [phase.depths(self._found.count) for phase in self._plan[self.phase + 1 :]]
        return [trains.start if trains else self._found.count for trains in depths]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at module and schedule, so that mistakes are told before anything runs."""
        if stage != "fit":
            return
        self.check(pl_module)
        check_strategy(trainer)
        thaw(pl_module)
        if trainer.global_step == 0:  # a resumed run's starts come with its checkpoint
            self._starts = []
        self._rewarm = Rewarm(self.rewarm)  # steps of an earlier fit mean nothing in this one

    def check(self, pl_module: LightningModule) -> None:
        """Raise what is wrong with the phases or the layers of a module.

        Raises:
            ValueError: As the class says.
        """
        self._found = find_layers(pl_module, self.layers)
        self._plan = parse_phases(self.phases, self._found.count)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what can train, and check that an optimizer has it."""
        self._trainable = TrainableSet(pl_module, self._found.modules)
        self._trainable.set_modes()
        self._seen = None
        check_optimizers(trainer.optimizers, pl_module, self._trainable.names)
        self._check_rewarm(trainer.optimizers, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the phase that the run, resumed or not, is in."""
        self._advance(trainer)
        if self.rewarm:
            self._rewarm.attach(trainer.optimizers, now=lambda: trainer.global_step)
        self._apply(trainer, pl_module)
        self._tell_unreached(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new phase, if one is due, and set the modes again after what was between."""
        if self._advance(trainer):
            self._apply(trainer, pl_module)
        elif self._trainable is not None:
            self._trainable.set_modes()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a new phase, if one is due."""
        if self._advance(trainer):
            self._apply(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the metric that the next phase waits for has stopped improving."""
        following = len(self._starts)
        if trainer.sanity_checking or self._due or not 0 < following < len(self._plan):
            return
        plateau = self._plan[following].at_plateau
        if plateau is not None:
            self._watch(trainer, plateau)

    def _watch(self, trainer: Trainer, plateau: Plateau) -> None:
        if plateau.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ValueError(
                f"at_plateau.monitor={plateau.monitor!r} is not among the metrics logged: {known}"
            )
        value = float(trainer.callback_metrics[plateau.monitor])
        improved = plateau.improves(value, self._best)
        # One rank's metric may differ from another's where it is not averaged.
        if trainer.strategy.reduce_boolean_decision(improved, all=False):
            self._best, self._wait = value, 0
        else:
            self._wait += 1
            self._due = self._wait > plateau.patience

    def _advance(self, trainer: Trainer) -> bool:
        """Begin the phases that are due now; return whether there are any."""
        now = (trainer.current_epoch, trainer.global_step)
        if now == self._seen:
            return False
        self._seen = now
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
                    f"at_fraction={value:g} needs to know how long the run is: set max_epochs or "
                    "max_steps, or begin the phase at_epoch or at_step"
                )
            value = math.ceil(value * total)
        return trainer.global_step >= value

    def _tell_unreached(self, trainer: Trainer) -> None:
        """Warn of phases that begin after the end of the run."""
        last_epoch = math.inf if (trainer.max_epochs or -1) < 0 else trainer.max_epochs
        last_step = math.inf if trainer.max_steps < 0 else trainer.max_steps
        ends = {"at_epoch": last_epoch, "at_step": last_step}
        late = [p for p in self._plan if p.start[1] >= (ends.get(p.start[0]) or math.inf)]
        if late and trainer.is_global_zero:
            kind, value = late[0].start
            log.warning(
                "phase %d of %d would begin %s=%d, and the run ends before; it never begins",
                self._plan.index(late[0]) + 1,
                len(self._plan),
                kind,
                value,
            )

    def _apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the phase in force be so."""
        assert self._trainable is not None  # since on_fit_start
        phase = self._plan[self.phase]
        depths = phase.depths(self._found.count)
        frozen = self._trainable.names - self._trains(self.phase)
        modules = [m for depth, m in enumerate(self._found.modules) if depth not in depths]
        if self._trainable.freeze(frozen, modules):
            wrap_again(trainer)
        self._trainable.set_modes()
        if self.rewarm:
            named = dict(pl_module.named_parameters())
            for begun in range(1, self.phase + 1):
                new = [named[name] for name in self._newly(begun)]
                self._rewarm.start(new, self._starts[begun])
        if trainer.is_global_zero:
            log.info("%s", self._line(trainer, pl_module, depths, phase))

    def _trains(self, phase: int) -> set[str]:
        """Return the names of the parameters that train in a phase."""
        assert self._trainable is not None  # since on_fit_start
        depths = self._plan[phase].depths(self._found.count)
        depth_of = self._found.depth_of
        return {
            name
            for name in self._trainable.names
            if (depth_of[name] in depths if name in depth_of else self._plan[phase].outside)
        }

    def _newly(self, phase: int) -> set[str]:
        """Return the names of the parameters that train in a phase and not in the one before."""
        return self._trains(phase) - self._trains(phase - 1)

    def _check_rewarm(self, optimizers: Sequence[Optimizer], module: LightningModule) -> None:
        """Raise if a group is to warm up a part of its parameters; better now than in mid-run."""
        named = dict(module.named_parameters())
        for phase in range(1, len(self._plan) if self.rewarm else 1):
            new, trains = self._newly(phase), self._trains(phase)
            new_ids = {id(named[name]) for name in new}
            trains_ids = {id(named[name]) for name in trains}
            for optimizer in optimizers:
                for number, group in enumerate(optimizer.param_groups):
                    inside = {id(parameter) for parameter in group["params"]} & trains_ids
                    if inside & new_ids and not inside <= new_ids:
                        raise ValueError(
                            f"rewarm={self.rewarm} needs an optimizer group for each depth: phase "
                            f"{phase + 1} unfreezes a part of {_name(group, number)} alone; use "
                            "optim.ParameterGroups, or rewarm=0"
                        )

    def _line(
        self, trainer: Trainer, pl_module: LightningModule, depths: range, phase: Phase
    ) -> str:
        what = [name_depths(depths)] if depths else []
        what += ["all outside the layers"] if phase.outside else []
        return (
            f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}: phase "
            f"{self.phase + 1} of {len(self._plan)} trains {' and '.join(what) or 'nothing'}, "
            f"{count_line(pl_module)}; learning rates {_rates(trainer.optimizers)}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return when the phases so far began, and what is known of a plateau."""
        return {
            "plan": self._signature(),
            "starts": list(self._starts),
            "best": self._best,
            "wait": self._wait,
            "due": self._due,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with what was begun; another schedule is followed from where the run is."""
        if state_dict["plan"] != self._signature():
            log.warning("the checkpoint was made under another schedule of unfreezing")
            return
        self._starts = list(state_dict["starts"])
        self._best, self._wait = state_dict["best"], state_dict["wait"]
        self._due = state_dict["due"]

    def _signature(self) -> str:
        return "; ".join(str(phase) for phase in self._plan)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers too."""
        self._rewarm.detach()
        super().teardown(trainer, pl_module, stage)


def check_optimizers(
    optimizers: Sequence[Optimizer], module: LightningModule, names: set[str]
) -> None:
    """Raise unless each of these parameters is in exactly one optimizer group.

    Raises:
        ValueError: If one is in none, or in several; the message names it.
    """
    count: dict[int, int] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                count[id(parameter)] = count.get(id(parameter), 0) + 1
    for name, parameter in module.named_parameters():
        if name in names and (found := count.get(id(parameter), 0)) != 1:
            raise ValueError(
                f"{name} is to train and is in {found} optimizer groups instead of one; give "
                "configure_optimizers all parameters, or take its gradient away before the fit "
                "(requires_grad_(False)) if it is never to train"
            )


def _name(group: Mapping[str, Any], number: int) -> str:
    return str(group.get("name", f"group {number}"))


def _rates(optimizers: Sequence[Optimizer]) -> str:
    """List the learning rates of what trains now, equal ones together."""
    rates: dict[str, list[str]] = {}
    for optimizer in optimizers:
        for number, group in enumerate(optimizer.param_groups):
            if any(parameter.requires_grad for parameter in group["params"]):
                name = _name(group, number).removesuffix(", no decay")
                names = rates.setdefault(f"{float(group['lr']):.2e}", [])
                if name not in names:
                    names.append(name)
    return ", ".join(f"{rate} ({', '.join(names)})" for rate, names in rates.items()) or "none"
