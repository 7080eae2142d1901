"""Warm-up of layers that begin to train in the middle of a run."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class Rewarm:
    """Let newly unfrozen parameters warm up, whatever scheduler drives the learning rate.

    The rate of a group is scaled for no longer than the update itself: the closure (forward and
    backward, which torch runs inside ``Optimizer.step``) still sees the plain rate, and after the
    update the very object that was there is put back. So no scheduler, logger or checkpoint ever
    meets a scaled rate, and nothing needs saving: a resumed run says again which parameters began
    when. (An optimizer that reads its rate before it runs the closure, as LBFGS does, is left alone
    by this; one without a closure is not.)

    Args:
        steps: Optimizer steps of a warm-up, >= 0.

    Raises:
        ValueError: If ``steps`` is negative.

    Example:
        >>> [Rewarm(3).factor(step, start=10) for step in (10, 11, 12, 13, 14)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, steps: int) -> None:
        """See the class."""
        if steps < 0:
            raise ValueError(f"steps must be >= 0, got {steps}; 0 does without a warm-up")
        self.steps = steps
        self._starts: dict[nn.Parameter, int] = {}
        self._handles: list[RemovableHandle] = []
        self._plain: list[tuple[dict[str, Any], Any]] = []  # groups that are scaled, their rates
        self._now: Callable[[], int] = lambda: 0
        self._optimizers: list[Optimizer] = []

    def factor(self, step: int, start: int) -> float:
        """Return what scales the rate at optimizer step ``step`` of what began at ``start``.

        It grows linearly and reaches 1 after ``steps`` steps.
        """
        return min(1.0, (step - start + 1) / (self.steps + 1))

    def attach(self, optimizers: Iterable[Optimizer], *, now: Callable[[], int]) -> None:
        """Scale these optimizers' rates from here on.

        Args:
            optimizers: Those that train the parameters.
            now: Gives the number of optimizer steps done so far, also across a resume, such as
                ``lambda: trainer.global_step``.

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
        """Leave the optimizers as they were; what has been started is kept for another attach."""
        self._put_back()
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizers = [], []

    def start(self, parameters: Iterable[nn.Parameter], step: int) -> None:
        """Say that parameters begin, or began, to train.

        Args:
            parameters: They require grad by now.
            step: Optimizer steps done before their first.

        Raises:
            ValueError: If an optimizer group would have to warm up a part of its parameters.
        """
        self._starts.update(dict.fromkeys(parameters, step))
        self._check()

    def _check(self) -> None:
        now = self._now()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                self._factor_of(group, now)

    def _factor_of(self, group: Mapping[str, Any], now: int) -> float:
        """Return the factor of a group: that of each of its parameters that train."""
        factors = {
            self.factor(now, self._starts[p]) if p in self._starts else 1.0
            for p in group["params"]
            if p.requires_grad
        }
        if len(factors) > 1:
            raise ValueError(
                f"the optimizer group {group.get('name', 'without a name')!r} holds parameters "
                f"that began to train at different times (factors {sorted(factors)}), and a group "
                "has one learning rate; make one group a depth, as "
                "lightning_transfer.optim.ParameterGroups does"
            )
        return factors.pop() if factors else 1.0

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Scale before the update, which comes after the closure if there is one."""
        self._put_back()  # should an update have failed half-way
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._scale(optimizer)
            return None

        def scaling() -> Any:
            self._put_back()  # some optimizers run it several times in a step
            loss = closure()
            self._scale(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": scaling}
        return (args[0], scaling, *args[2:]), kwargs

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._put_back()

    def _scale(self, optimizer: Optimizer) -> None:
        now = self._now()
        for group in optimizer.param_groups:
            factor = self._factor_of(group, now)
            if factor != 1.0:
                self._plain.append((group, group["lr"]))
                group["lr"] = group["lr"] * factor

    def _put_back(self) -> None:
        for group, rate in self._plain:
            group["lr"] = rate
        self._plain = []
