"""A run interrupted at any step and resumed equals an uninterrupted one exactly."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from transformers import BertModel

from lightning_transfer.backbones import Backbone
from lightning_transfer.callbacks import GradualUnfreezing, ResumePoint
from lightning_transfer.checkpoints.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from lightning_transfer.data import Columns, Files, LabelSpec, Splits
from lightning_transfer.heads import MLPHead
from lightning_transfer.optim import ParameterGroups, Recipe, linear_schedule
from lightning_transfer.tasks import SequenceRegression
from tests.conftest import make_tokenizer, tiny_config

pytestmark = pytest.mark.jobs

EPOCHS, BATCHES = 3, 4


class Stop(Exception):
    pass


class StopAt(pl.Callback):
    """Raise after a number of optimizer steps, in a given hook."""

    def __init__(self, step, hook):
        self.step = step
        self.hook = hook

    def _maybe(self, trainer, hook):
        if hook == self.hook and trainer.global_step == self.step:
            raise Stop

    def on_train_batch_end(self, trainer, *_):
        self._maybe(trainer, "batch")

    def on_validation_start(self, trainer, *_):
        self._maybe(trainer, "validation")

    def on_train_epoch_start(self, trainer, *_):
        self._maybe(trainer, "epoch")


def run(folder, reviews, *, stop=None, resume=False, callbacks=(), backbone=None):
    pl.seed_everything(3, workers=True, verbose=False)
    data = Files(
        str(reviews),
        columns=Columns(label="rating"),
        label=LabelSpec("regression"),
        splits=Splits(val=20, test=20),
        train_size=BATCHES * 8,
        batch_size=8,
    )
    data.tokenizer = make_tokenizer()
    backbone = Backbone(BertModel(tiny_config())) if backbone is None else backbone()
    recipe = Recipe(
        lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        lambda optimizer, total_steps: linear_schedule(optimizer, total_steps=total_steps),
        ParameterGroups(),
    )
    data.setup("fit")
    task = SequenceRegression(
        backbone, MLPHead(backbone.hidden_size, 1), labels=data.labels, recipe=recipe
    )
    point = ResumePoint(folder, every_n_steps=1)
    best = ModelCheckpoint(folder, "best", "val/pearson", mode="max", save_weights_only=True)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[
            *callbacks,
            EarlyStopping("val/loss", patience=5),
            best,
            point,
            *([StopAt(*stop)] if stop else []),
        ],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    path = point.path if resume and point.path.exists() else None
    trainer.fit(task, datamodule=data, ckpt_path=path)
    return read_checkpoint(point.path), float(best.best_model_score), task


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, reviews):
    return run(tmp_path_factory.mktemp("whole"), reviews)


def assert_equal(one, other, where=""):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}/{index}")
    else:
        assert one == other, where


STOPS = [
    *(("batch", step) for step in range(1, EPOCHS * BATCHES)),
    *(("validation", BATCHES * epoch) for epoch in range(1, EPOCHS + 1)),
    *(("epoch", BATCHES * epoch) for epoch in range(1, EPOCHS)),
]


@pytest.mark.parametrize(("hook", "step"), STOPS)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, reviews, uninterrupted, hook, step):
    with pytest.raises(Stop):
        run(tmp_path, reviews, stop=(step, hook))
    assert_same_run(uninterrupted, run(tmp_path, reviews, resume=True))


def assert_same_run(uninterrupted, continued):
    whole, whole_score, whole_task = uninterrupted
    resumed, score, task = continued
    assert_equal(whole["state_dict"], resumed["state_dict"])
    assert_equal(whole["optimizer_states"], resumed["optimizer_states"])
    assert_equal(whole["lr_schedulers"], resumed["lr_schedulers"])
    assert whole["global_step"] == resumed["global_step"] == EPOCHS * BATCHES
    assert score == whole_score
    for one, other in zip(whole_task.parameters(), task.parameters(), strict=True):
        assert torch.equal(one, other)


UNFREEZING = {
    "epochs": [
        {"from_depth": 3},
        {"from_depth": -1, "at_epoch": 1},
        {"from_depth": 0, "at_epoch": 2},
    ],
    "steps": [{"from_depth": 3}, {"from_depth": 1, "at_step": 3}, {"from_depth": 0, "at_step": 7}],
    "plateaus": [
        {"from_depth": 2},
        {"from_depth": 0, "at_plateau": {"monitor": "val/loss", "min_delta": 99.0}},
        {"from_depth": 3, "at_plateau": {"monitor": "val/loss", "min_delta": 99.0}},
    ],
    "chain-thaw": "chain-thaw",
}


SLOW = ("plateaus", "chain-thaw")  # each adds two runs per step


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in UNFREEZING],
)
def unfreezing(request, tmp_path_factory, reviews):
    """Return the phases of a schedule, and the uninterrupted run with it."""
    phases = UNFREEZING[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    return phases, run(folder, reviews, callbacks=[GradualUnfreezing(phases)])


@pytest.mark.parametrize(("hook", "step"), STOPS)
def test_a_run_resumed_at_any_step_of_an_unfreezing_schedule_is_exact(
    tmp_path, reviews, unfreezing, hook, step
):
    """Steps before, at and after the start of each phase, within and at the end of an epoch."""
    phases, uninterrupted = unfreezing
    callbacks = [GradualUnfreezing(phases)]
    with pytest.raises(Stop):
        run(tmp_path, reviews, stop=(step, hook), callbacks=callbacks)
    continued = run(tmp_path, reviews, resume=True, callbacks=[GradualUnfreezing(phases)])
    assert_same_run(uninterrupted, continued)
    [state] = [v for k, v in continued[0]["callbacks"].items() if k.startswith("GradualUnfreezing")]
    [whole] = [
        v for k, v in uninterrupted[0]["callbacks"].items() if k.startswith("GradualUnfreezing")
    ]
    assert state == whole
    assert len(state["starts"]) >= 2


@pytest.mark.slow
@pytest.mark.network
def test_minilm_resumed_at_the_start_of_a_phase_is_exact(tmp_path, reviews):
    def part(name, **more):
        callbacks = [GradualUnfreezing(UNFREEZING["steps"])]
        (tmp_path / name).mkdir(exist_ok=True)
        minilm = partial(Backbone.from_pretrained, "asset:minilm")
        return run(tmp_path / name, reviews, callbacks=callbacks, backbone=minilm, **more)

    uninterrupted = part("whole")
    with pytest.raises(Stop):
        part("cut", stop=(4, "batch"))  # resumes from step 3, where a phase starts
    assert_same_run(uninterrupted, part("cut", resume=True))
