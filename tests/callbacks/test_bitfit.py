"""BitFit (arXiv:2106.10199) by freezing with a regex over names."""

import logging
from functools import partial

import pytest
import torch

from lightning_transfer.callbacks import Freezing
from lightning_transfer.heads import MLPHead
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, make_backbone, make_loader, make_trainer

BITFIT = [r"^backbone\.(?!.*bias$)"]
RECIPE = Recipe(partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5))
MODELS = ("bert", "roberta", "distilbert", "electra", "deberta", "deberta-v2", "mpnet")


def fit(model, *callbacks, **arguments):
    head = MLPHead(HIDDEN, 1)
    task = SequenceRegression(
        make_backbone(model), head, labels=Labels("regression"), recipe=RECIPE
    )
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    trainer = make_trainer(callbacks=[*callbacks], **arguments)
    trainer.fit(task, make_loader(), make_loader())
    return task, before


@pytest.mark.parametrize(
    ("model", "precision"), [*((model, "32-true") for model in MODELS), ("bert", "bf16-mixed")]
)
def test_only_biases_and_the_head_change(model, precision):
    task, before = fit(model, Freezing(names=BITFIT), precision=precision)
    expected = {n for n in before if n.startswith("head.") or n.endswith("bias")}
    assert {n for n, p in task.named_parameters() if p.requires_grad} == expected
    moved = {n for n, p in task.named_parameters() if not torch.equal(p, before[n])}
    # The bias of the keys adds a constant to all attention scores of a query, so its gradient is 0
    # up to rounding, and AdamW does not change it if the gradient is exactly 0.
    assert moved <= expected
    assert {n for n in expected - moved if "key" not in n and "k_lin" not in n} == set()


def test_layers_with_biases_are_in_train_mode(caplog):
    caplog.set_level(logging.INFO)
    modes = []

    class Look(Freezing):
        def on_train_batch_start(self, trainer, pl_module, *_):
            modes.append([m.training for m in pl_module.backbone.modules()])

    task, _ = fit("bert", Look(names=BITFIT), max_epochs=2)
    assert len(modes) == 6
    assert all(all(mode) for mode in modes)
    trains = sum(p.numel() for p in task.parameters() if p.requires_grad)
    total = sum(p.numel() for p in task.parameters())
    assert f"(?!.*bias$): {trains:,} of {total:,} parameters (" in caplog.text


def test_frozen_layers_stay_frozen_with_bitfit():
    for callbacks in ((Freezing(2), Freezing(names=BITFIT)), (Freezing(names=BITFIT), Freezing(2))):
        task, before = fit("bert", *callbacks)
        for layer in task.backbone.layers[:2]:
            assert not any(p.requires_grad for p in layer.parameters())
            assert not any(module.training for module in layer.modules())
        moved = {n for n, p in task.named_parameters() if not torch.equal(p, before[n])}
        assert all(n.endswith("bias") or n.startswith("head.") for n in moved)
        assert not any(".layer.0." in n for n in moved)
