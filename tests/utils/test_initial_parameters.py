"""Copies of the initial parameters of a run."""

import torch
from torch import nn

from lightning_transfer.utils.initial_parameters import InitialParameters


def test_the_value_at_the_first_call_is_returned():
    weight, initial = nn.Parameter(torch.ones(3)), InitialParameters()
    initial.of("a", weight)
    weight.data += 1
    assert initial.of("a", weight).tolist() == [1.0] * 3
    assert not initial.of("a", weight).requires_grad
    initial.clear()
    assert initial.of("a", weight).tolist() == [2.0] * 3


def test_only_requested_parameters_are_copied():
    initial = InitialParameters()
    assert initial.state_dict() == {}
    initial.of("b", nn.Parameter(torch.ones(2)))
    assert list(initial.state_dict()) == ["b"]


def test_copies_survive_the_state_dict():
    weight, initial, resumed = nn.Parameter(torch.ones(3)), InitialParameters(), InitialParameters()
    initial.of("a", weight)
    resumed.load_state_dict(initial.state_dict())
    weight.data += 1
    assert resumed.of("a", weight).tolist() == [1.0] * 3
