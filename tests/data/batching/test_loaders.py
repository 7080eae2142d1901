"""Resume in the fit loop of Lightning: at every step, across epochs, and under other limits."""

import copy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import Dataset

from lightning_transfer.data import LengthBatchSampler, ResumableLoader

ROWS, BATCH, EPOCHS = 20, 3, 3
STEPS = -(-ROWS // BATCH)  # batches in an epoch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
]


class Numbers(Dataset):
    """Row i is the number i."""

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return float(index)


def make_loader(rows=ROWS, batch_size=BATCH, seed=0, max_tokens=None):
    lengths = [row % 7 + 1 for row in range(rows)]
    sampler = LengthBatchSampler(
        lengths, batch_size, seed=seed, shuffle=True, max_tokens=max_tokens
    )
    return ResumableLoader(Numbers(), sampler, collate_fn=torch.tensor)


class Model(LightningModule):
    """Model with dropout and momentum: any change of the order or the random state changes it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        if isinstance(batch, dict):
            batch = torch.cat(list(batch.values()))
        self.seen.append((self.current_epoch, batch.tolist()))
        batch = torch.nn.functional.dropout(batch[:, None] / ROWS, 0.3)
        return (self.layer(batch) - 1).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.layer(batch[:, None]).mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class SaveEverywhere(Callback):
    """Callback that stores a checkpoint at every hook in which Lightning's own callback saves."""

    def __init__(self):
        self.checkpoints = {}

    def _save(self, trainer, moment):
        if trainer.sanity_checking:
            return
        checkpoint = copy.deepcopy(trainer._checkpoint_connector.dump_checkpoint())
        checkpoint["random"] = torch.get_rng_state()
        key = (moment, trainer.global_step)
        self.checkpoints[key] = (checkpoint, len(trainer.lightning_module.seen))

    def on_train_batch_end(self, trainer, *args):
        self._save(trainer, "batch")

    def on_train_epoch_end(self, trainer, *args):
        self._save(trainer, "epoch")

    def on_validation_end(self, trainer, *args):
        self._save(trainer, "validation")


class RestoreRandom(Callback):
    """Callback that restores the random state of a checkpoint, as the stage runner does."""

    def __init__(self, state):
        self.state = state

    def on_train_start(self, *args):
        torch.set_rng_state(self.state)


def fit(loader, *, validate, checkpoint=None, callback=None, **options):
    torch.manual_seed(0)
    model = Model()
    options = {"max_epochs": EPOCHS, **options}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validate else 0,
        callbacks=callback,
        **options,
    )
    validation = torch.utils.data.DataLoader(
        Numbers(), batch_size=10, collate_fn=torch.tensor, generator=torch.Generator()
    )
    trainer.fit(model, loader, validation, ckpt_path=checkpoint, weights_only=True)
    return model


def check_all_resumes(tmp_path, make, *, skip=(), **options):
    """Resume from every stored checkpoint, and compare with the uninterrupted run."""
    saver = SaveEverywhere()
    whole = fit(make(), callback=saver, **options)
    assert len(saver.checkpoints) > len(whole.seen)
    for (moment, step), (checkpoint, seen) in saver.checkpoints.items():
        if moment in skip:
            continue
        random_state = checkpoint.pop("random")
        path = tmp_path / "resume.ckpt"
        torch.save(checkpoint, path)
        resumed = fit(make(), checkpoint=path, callback=RestoreRandom(random_state), **options)
        assert resumed.seen == whole.seen[seen:], f"other rows after {moment} end of step {step}"
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), f"{moment}, step {step}"
    return whole


@pytest.mark.parametrize("validate", [True, False])
def test_resumed_at_any_step_equals_uninterrupted(tmp_path, validate):
    whole = check_all_resumes(tmp_path, make_loader, validate=validate)
    for epoch in range(EPOCHS):
        rows = [row for at, batch in whole.seen for row in batch if at == epoch]
        assert sorted(rows) == list(range(ROWS))
    orders = [[batch for at, batch in whole.seen if at == epoch] for epoch in range(EPOCHS)]
    assert orders[0] != orders[1]
    assert orders[1] != orders[2]


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 3},
        {"limit_train_batches": 4},
        {"max_epochs": -1, "max_steps": 17},
        {"max_steps": 17, "limit_train_batches": 5},
    ],
    ids=lambda options: "-".join(options),
)
def test_resume_is_exact_under_other_trainer_arguments(tmp_path, options):
    # With max_steps, Lightning 2.6 counts an epoch twice if it resumes from a checkpoint saved in
    # on_train_epoch_end, and skips the next epoch.
    skip = ["epoch"] if "max_steps" in options else []
    check_all_resumes(tmp_path, make_loader, validate=True, skip=skip, **options)


def test_resume_is_exact_with_max_tokens(tmp_path):
    def make():
        return make_loader(batch_size=6, max_tokens=12)

    whole = check_all_resumes(tmp_path, make, validate=True)
    sizes = [len(batch) for _, batch in whole.seen]
    assert len(sizes) == EPOCHS * len(make())
    assert min(sizes) == 1
    assert max(sizes) > 3


def test_lightning_estimates_the_steps_with_max_tokens():
    class Asks(Callback):
        def on_train_start(self, trainer, model):
            self.expected = trainer.estimated_stepping_batches

    asks = Asks()
    model = fit(make_loader(batch_size=6, max_tokens=12), validate=False, callback=asks)
    assert len(model.seen) == asks.expected


def test_resume_is_exact_for_combined_loaders(tmp_path):
    """The shorter loader starts again, as for an objective on unlabelled target text."""

    def make():
        loaders = {"source": make_loader(), "target": make_loader(rows=8, seed=5)}
        return CombinedLoader(loaders, "max_size_cycle")

    check_all_resumes(tmp_path, make, validate=False)


def test_the_loop_restores_the_loader_from_the_checkpoint_file(tmp_path):
    saver = SaveEverywhere()
    fit(make_loader(), callback=saver, validate=False)
    checkpoint, _ = saver.checkpoints["batch", STEPS + 2]
    [state] = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert state == {"epoch": 1, "batches": 2, "length": STEPS}


def test_iterating_does_not_touch_the_global_random_state():
    before = torch.get_rng_state()
    assert len(list(make_loader())) == STEPS
    assert torch.equal(torch.get_rng_state(), before)


def test_without_lightning_a_finished_epoch_resumes_at_the_next():
    loader = make_loader()
    list(loader)
    assert loader.state_dict() == {"epoch": 0, "batches": STEPS, "length": STEPS}
    resumed, fresh = make_loader(), make_loader()
    resumed.load_state_dict(loader.state_dict())
    fresh.set_epoch(1)
    assert resumed.state_dict() == {"epoch": 1, "batches": 0, "length": STEPS}
    assert [batch.tolist() for batch in resumed] == [batch.tolist() for batch in fresh]


def test_a_state_saved_before_the_first_batch_keeps_the_position():
    loader = make_loader()
    loader.load_state_dict({"epoch": 2, "batches": 3, "length": STEPS})
    assert loader.state_dict() == {"epoch": 2, "batches": 3, "length": STEPS}
    assert len(list(loader)) == STEPS - 3
    loader.set_epoch(3)
    assert len(list(loader)) == STEPS


def test_a_position_in_an_epoch_of_another_length_is_an_error():
    loader = make_loader(batch_size=5)
    with pytest.raises(ValueError, match=f"saved at batch 3 of {STEPS}, but an epoch now has 4"):
        loader.load_state_dict({"epoch": 0, "batches": 3, "length": STEPS})
    loader.load_state_dict({"epoch": 0, "batches": STEPS, "length": STEPS})
    assert loader.state_dict() == {"epoch": 1, "batches": 0, "length": 4}
