"""Learning rates of the schedules, and their state and ranges."""

import math
import pickle

import pytest
import torch
from torch import nn

from lightning_transfer.optim import (
    constant_schedule,
    cosine_schedule,
    linear_schedule,
    one_cycle_schedule,
    slanted_triangular_schedule,
)


def make_optimizer(lr=1.0):
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)


def rates_of(make, total, *, lr=1.0, steps=None, **arguments):
    """Return the learning rate at each step of a schedule."""
    optimizer = make_optimizer(lr)
    scheduler = make(optimizer, total_steps=total, **arguments)
    rates = []
    for _ in range(steps or total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.25])
def test_linear_schedule_increases_then_decreases_to_zero(warmup):
    total = 10
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=2.0)
    scheduler = linear_schedule(optimizer, total_steps=total, warmup=warmup)
    rates = []
    for _ in range(total + 2):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rise = int(warmup * total)
    expected = [2.0 * (step + 1) / (rise + 1) for step in range(rise)]
    expected += [2.0 * (total - step) / (total - rise) for step in range(rise, total)]
    assert rates == pytest.approx([*expected, 0.0, 0.0])
    assert max(rates) == rates[rise] == 2.0


def test_the_state_of_a_schedule_contains_its_step_numbers():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    state = linear_schedule(optimizer, total_steps=20, warmup=0.5).state_dict()
    assert state["lr_lambdas"] == [{"total_steps": 20, "warmup_steps": 10}]


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 5])
def test_a_warm_up_outside_of_0_to_1_is_an_error(warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    with pytest.raises(ValueError, match=rf"in \[0, 1\), got {warmup}; set scheduler.warmup"):
        linear_schedule(optimizer, total_steps=10, warmup=warmup)


def test_slanted_triangular_is_equation_3_of_the_paper():
    total, cut_frac, ratio, peak = 50, 0.1, 32, 0.01
    cut = math.floor(total * cut_frac)
    expected = []
    for t in range(total):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        expected.append(peak * (1 + p * (ratio - 1)) / ratio)
    assert rates_of(slanted_triangular_schedule, total, lr=peak) == pytest.approx(expected)
    assert max(expected) == expected[5] == peak


@pytest.mark.parametrize("total", [1, 5, 15, 19, 101])
def test_slanted_triangular_ends_at_its_first_rate_with_any_rounding(total):
    rates = rates_of(slanted_triangular_schedule, total, steps=total + 3, ratio=4)
    assert min(rates) == rates[total] == rates[-1] == 0.25
    assert max(rates) == rates[math.floor(0.1 * total)] == 1.0


def test_cosine_increases_then_decreases_to_its_final_fraction():
    rates = rates_of(cosine_schedule, 10, lr=2.0, warmup=0.2, final=0.1, steps=12)
    fall = [0.2 + 1.8 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    assert rates == pytest.approx([2 / 3, 4 / 3, *fall, 0.2])


@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_constant_does_not_change_after_its_warm_up(warmup):
    rates = rates_of(constant_schedule, 10, lr=2.0, warmup=warmup)
    rise = int(10 * warmup)
    assert rates == pytest.approx(
        [2 * (i + 1) / (rise + 1) for i in range(rise)] + [2.0] * (10 - rise)
    )


def test_the_peak_of_one_cycle_is_the_rate_of_the_optimizer():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=2.0)
    schedule = one_cycle_schedule(optimizer, total_steps=12, warmup=0.5, start_div=10, final_div=4)
    rates, betas = [], []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        if len(rates) < 12:
            schedule.step()
    assert (rates[0], max(rates), rates[-1]) == pytest.approx((0.2, 2.0, 0.05))
    assert (betas[0], min(betas), betas[-1]) == pytest.approx((0.95, 0.85, 0.95))


@pytest.mark.parametrize(
    "make", [constant_schedule, cosine_schedule, linear_schedule, slanted_triangular_schedule]
)
def test_schedules_of_the_package_can_be_pickled(make):
    [multiplier] = make(make_optimizer(), total_steps=20).lr_lambdas
    again = pickle.loads(pickle.dumps(multiplier))
    assert [again(step) for step in range(20)] == [multiplier(step) for step in range(20)]


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (constant_schedule, {"warmup": 1.0}, r"\[0, 1\), got 1.0; set scheduler.warmup"),
        (cosine_schedule, {"warmup": -1}, r"\[0, 1\), got -1; set scheduler.warmup"),
        (cosine_schedule, {"final": 1.5}, r"\[0, 1\], got 1.5; set scheduler.final"),
        (slanted_triangular_schedule, {"cut_frac": 1.0}, r"\[0, 1\), got 1.0; set scheduler.cut"),
        (slanted_triangular_schedule, {"ratio": 0.5}, "ratio must be >= 1, got 0.5"),
        (one_cycle_schedule, {"warmup": 0.0}, r"\(0, 1\), got 0.0; set scheduler.warmup"),
        (one_cycle_schedule, {"start_div": 0.5}, "must be >= 1, got 0.5 and 10000.0"),
    ],
)
def test_values_out_of_range_are_an_error(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(make_optimizer(), total_steps=10, **arguments)
