"""Learning-rate warm-up of parameters unfrozen during a run."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class Rewarm:
    """Warm up the learning rate of newly unfrozen parameters, under any scheduler.

    The learning rate of an optimizer group is scaled during the update only. Schedulers, loggers
    and checkpoints see the unscaled rate, and there is no state to save: after a resume, call
    :meth:`start` again with the same steps. An optimizer that reads its learning rate before it
    runs the closure, such as LBFGS, is not scaled; without a closure it is.

    Args:
        steps: Length of a warm-up in optimizer steps, >= 0.

    Raises:
        ValueError: If ``steps`` is negative.

    Example:
        >>> [Rewarm(3).factor(step, start=10) for step in (10, 11, 12, 13, 14)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, steps: int) -> None:
        """See the class."""
        if steps < 0:
            raise ValueError(f"steps must be >= 0, got {steps}; set rewarm=0 for no warm-up")
        self.steps = steps
        self._starts: dict[nn.Parameter, int] = {}
        self._handles: list[RemovableHandle] = []
        self._scaled: list[tuple[dict[str, Any], Any]] = []  # scaled groups and their rates
        self._now: Callable[[], int] = lambda: 0
        self._optimizers: list[Optimizer] = []

    def factor(self, step: int, start: int) -> float:
        """Return the factor of the learning rate; it rises linearly to 1 over ``steps`` steps.

        Args:
            step: Current optimizer step.
            start: First optimizer step of the parameters.

        Returns:
            Factor in (0, 1].
        """
        return min(1.0, (step - start + 1) / (self.steps + 1))

    def attach(self, optimizers: Iterable[Optimizer], *, now: Callable[[], int]) -> None:
        """Scale the learning rates of these optimizers from now on.

        Args:
            optimizers: Optimizers of the parameters.
            now: Returns the number of optimizer steps done, including those before a resume, such
                as ``lambda: trainer.global_step``.

        Raises:
            ValueError: See :meth:`start`.
        """
        self.detach()
        self._optimizers, self._now = list(optimizers), now
        self._check()
        for optimizer in self._optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before))
            self._handles.append(optimizer.register_step_post_hook(self._after))

    def detach(self) -> None:
        """Restore the optimizers; started warm-ups stay for another :meth:`attach`."""
        self._restore()
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizers = [], []

    def start(self, parameters: Iterable[nn.Parameter], step: int) -> None:
        """Start the warm-up of parameters.

        Args:
            parameters: Parameters that require grad now.
            step: Number of optimizer steps before their first update; may be in the past.

        Raises:
            ValueError: If only a part of an optimizer group would have to warm up.
        """
        self._starts.update(dict.fromkeys(parameters, step))
        self._check()

    def _check(self) -> None:
        now = self._now()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                self._factor_of(group, now)

    def _factor_of(self, group: Mapping[str, Any], now: int) -> float:
        """Return the common factor of the trainable parameters of a group."""
        factors = {
            self.factor(now, self._starts[p]) if p in self._starts else 1.0
            for p in group["params"]
            if p.requires_grad
        }
        if len(factors) > 1:
            raise ValueError(
                f"optimizer group {group.get('name', 'without a name')!r} has one learning rate, "
                f"but its parameters were unfrozen at different times (factors {sorted(factors)}); "
                "build one group per depth, as lightning_transfer.optim.ParameterGroups does"
            )
        return factors.pop() if factors else 1.0

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Scale the rates before the update, and after the closure if there is one."""
        # torch runs the closure (forward and backward) inside step(); it must see the unscaled
        # rate, as a training step may log it.
        self._restore()  # an earlier update may have failed
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._scale(optimizer)
            return None

        def scaling() -> Any:
            self._restore()  # some optimizers run the closure several times in a step
            loss = closure()
            self._scale(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": scaling}
        return (args[0], scaling, *args[2:]), kwargs

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._restore()

    def _scale(self, optimizer: Optimizer) -> None:
        now = self._now()
        for group in optimizer.param_groups:
            factor = self._factor_of(group, now)
            if factor != 1.0:
                self._scaled.append((group, group["lr"]))
                group["lr"] = group["lr"] * factor

    def _restore(self) -> None:
        # The same object, not an equal value: a learning rate may be a tensor that the scheduler
        # changes in place.
        for group, rate in self._scaled:
            group["lr"] = rate
        self._scaled = []
