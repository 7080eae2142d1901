"""Optimization: parameter groups, learning-rate ratios and schedules."""

from lightning_transfer.optim.parameter_groups import (
    Layered,
    ParameterGroups,
    depth_of_parameters,
    layers_of,
)
from lightning_transfer.optim.ratio_scheduler import RatioScheduler
from lightning_transfer.optim.recipe import Recipe, check_recipe
from lightning_transfer.optim.schedules import (
    constant_schedule,
    cosine_schedule,
    linear_schedule,
    one_cycle_schedule,
    slanted_triangular_schedule,
)

__all__ = [
    "Layered",
    "ParameterGroups",
    "RatioScheduler",
    "Recipe",
    "check_recipe",
    "constant_schedule",
    "cosine_schedule",
    "depth_of_parameters",
    "layers_of",
    "linear_schedule",
    "one_cycle_schedule",
    "slanted_triangular_schedule",
]
