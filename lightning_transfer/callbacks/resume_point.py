"""Resume points: a run that was cut off goes on as if nothing had happened."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class ResumePoint(Checkpoint):
    """Save everything that the rest of the run depends on, to one file.

    Weights, optimizer, scheduler, loops and callbacks are Lightning's part; this adds the states
    of the random number generators, without which dropout takes another course after a resume.
    It is the last callback to run, so that the other callbacks' states are those of the same
    moment. One file is kept and replaced in one step.

    Args:
        folder: Where ``last.ckpt`` lies.
        every_n_steps: Optimizer steps between two saves within an epoch, >= 1. Each epoch saves
            once more: at its end or, where ``max_steps`` counts the run, after its first step
            (Lightning 2.6 counts an epoch twice that is resumed at its end under ``max_steps``).

    Raises:
        ValueError: If ``every_n_steps`` is below 1.
    """

    FILE = "last.ckpt"

    def __init__(
        self,
        folder: str | Path,
        *,
        every_n_steps: int = 100,
    ) -> None:
        """See the class."""
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be >= 1, got {every_n_steps}; set resume_every")
        self.path = Path(folder) / self.FILE
        self.every_n_steps = every_n_steps
        self.trained_here = False  # stays False where a strategy trains in forked processes
        self._states: dict[str, Any] | None = None
        self._step = 0  # optimizer steps before the batch at hand
        self._epoch_is_due = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note that this process runs the loops itself."""
        self.trained_here = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every n optimizer steps, never between two of them.

        Gradients that are being accumulated are in no checkpoint. Nor is what the end of an epoch
        still has to do, so the last batch waits for that.
        """
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if not stepped or trainer.is_last_batch:
            return
        if self._step % self.every_n_steps == 0 or self._epoch_is_due:
            self._epoch_is_due = False
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of every epoch."""
        self._epoch_is_due = trainer.max_steps != -1
        if not self._epoch_is_due:
            trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return the random states as plain values and tensors."""
        version, internal, gauss = random.getstate()
        name, keys, pos, has_gauss, cached = np.random.get_state(legacy=True)
        state: dict[str, Any] = {
            "torch": torch.get_rng_state(),
            "python": [version, list(internal), gauss],
            "numpy": [
                name,
                torch.from_numpy(np.asarray(keys).astype(np.int64)),
                pos,
                has_gauss,
                cached,
            ],
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random states until training really goes on."""
        self._states = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the random states, after all that happens before the first step."""
        self._step = trainer.global_step
        if self._states is None:
            return
        state, self._states = self._states, None
        if not trainer.is_global_zero:
            # The states are those of rank 0; ranks that share them would drop the same units.
            torch.manual_seed(torch.initial_seed() + 1000 * trainer.global_step)
            return
        torch.set_rng_state(state["torch"].cpu())
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
