import torch
from torch import nn

from lightning_transfer.utils.initial_parameters import InitialParameters


def test_a_weight_is_kept_as_it_was_when_first_asked_for():
    weight, kept = nn.Parameter(torch.ones(3)), InitialParameters()
    kept.of("a", weight)
    weight.data += 1
    assert kept.of("a", weight).tolist() == [1.0] * 3
    assert not kept.of("a", weight).requires_grad
    kept.clear()
    assert kept.of("a", weight).tolist() == [2.0] * 3


def test_what_was_not_asked_for_costs_nothing():
    kept = InitialParameters()
    assert kept.state_dict() == {}
    kept.of("b", nn.Parameter(torch.ones(2)))
    assert list(kept.state_dict()) == ["b"]


def test_the_state_travels():
    weight, kept, resumed = nn.Parameter(torch.ones(3)), InitialParameters(), InitialParameters()
    kept.of("a", weight)
    resumed.load_state_dict(kept.state_dict())
    weight.data += 1
    assert resumed.of("a", weight).tolist() == [1.0] * 3
