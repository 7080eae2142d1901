"""Resume points: checkpoints from which an interrupted run continues exactly."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


# A Checkpoint, because Lightning runs these callbacks last. The saved states of the other callbacks
# are then those of the same moment.
class ResumePoint(Checkpoint):
    """Save the complete state of a run to one file, for an exact resume.

    Lightning saves weights, optimizers, schedulers, loops and callbacks. This callback adds the
    states of the random number generators; without them, dropout would differ after a resume. The
    file ``last.ckpt`` is replaced atomically at each save.

    Args:
        folder: Folder of ``last.ckpt``.
        every_n_steps: Optimizer steps between two saves within an epoch, >= 1. Each epoch also
            saves at its end, or after the first step of the next one if ``max_steps`` limits the
            run.

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
            raise ValueError(
                f"every_n_steps must be an integer >= 1, got {every_n_steps}; set resume_every=100"
            )
        self.path = Path(folder) / self.FILE
        self.every_n_steps = every_n_steps
        self.trained_here = False  # stays False if the strategy trains in forked processes
        self._states: dict[str, Any] | None = None
        self._step = 0  # optimizer steps before the current batch
        self._epoch_is_due = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Record that this process runs the training loop itself."""
        self.trained_here = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every ``every_n_steps`` optimizer steps."""
        # Not between two optimizer steps: a checkpoint does not contain accumulated gradients. Not
        # after the last batch: nor does it contain the validation and the hooks still to come at
        # the end of the epoch.
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if not stepped or trainer.is_last_batch:
            return
        if self._step % self.every_n_steps == 0 or self._epoch_is_due:
            self._epoch_is_due = False
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of each epoch."""
        # Not in a run limited by max_steps: Lightning 2.6 counts an epoch twice if it is resumed
        # at its end. The first step of the next epoch saves instead.
        self._epoch_is_due = trainer.max_steps != -1
        if not self._epoch_is_due:
            trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the random number generators."""
        # Plain values and tensors only: checkpoints are read with weights_only=True, which refuses
        # numpy arrays.
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
        """Store the random states for :meth:`on_train_start`."""
        self._states = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random states."""
        # Here and not in load_state_dict: building loaders and a sanity check would draw numbers
        # before the first step.
        self._step = trainer.global_step
        if self._states is None:
            return
        state, self._states = self._states, None
        if not trainer.is_global_zero:
            # The saved states are those of rank 0. With them, all ranks would have the same dropout
            # masks.
            torch.manual_seed(torch.initial_seed() + 1000 * trainer.global_step)
            return
        torch.set_rng_state(state["torch"].cpu())
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
