"""Weight and warm-up of an objective."""

import pytest
from torch import nn

from lightning_transfer.objectives import Weighted


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.0), (1, 0.2), (5, 1.0), (9, 1.8), (10, 2.0), (11, 2.0), (999, 2.0)]
)
def test_the_weight_grows_linearly_over_the_warm_up(step, factor):
    assert Weighted(nn.Identity(), weight=2.0, warmup=10).factor(step) == pytest.approx(factor)


def test_without_a_warm_up_the_weight_is_full_from_the_first_step():
    assert [Weighted(nn.Identity(), weight=0.5).factor(step) for step in (0, 1, 100)] == [0.5] * 3
    assert Weighted(nn.Identity()).factor(0) == 1.0


@pytest.mark.parametrize(
    ("arguments", "got"), [({"weight": -1.0}, "-1.0 and 0"), ({"warmup": -3}, "1.0 and -3")]
)
def test_negative_values_are_an_error(arguments, got):
    with pytest.raises(
        ValueError, match=f"weight and warmup of an objective must be >= 0, got {got}"
    ):
        Weighted(nn.Identity(), **arguments)
