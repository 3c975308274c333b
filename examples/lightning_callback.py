"""PyTorch Lightning in a loop of your own: one callback reports, and ends training when the trial is told to stop.

    for trial in tuner.Client().ask("my-study"):
        model = MyModule(lr=trial.params.lr)
        trainer = Trainer(callbacks=[TunerCallback(trial)], default_root_dir=trial.checkpoint_dir)
        trainer.fit(model, ckpt_path=newest_checkpoint(trial.checkpoint_dir))

The study's metric is one that the module logs, such as `valid_loss`.
"""

from pathlib import Path

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback


class TunerCallback(Callback):
    """Reports what Lightning logs: each `every` steps, and after each validation."""

    def __init__(self, trial, every: int = 50) -> None:
        self.trial = trial
        self.every = every

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Report now and then, and stop where the trial should."""
        if trainer.global_step % self.every == 0:
            self._report(trainer)
        if self.trial.should_stop:
            trainer.should_stop = True

    def on_validation_end(self, trainer, pl_module) -> None:
        """Report the metrics of a validation, but for the check before training."""
        if not trainer.sanity_checking:
            self._report(trainer)

    def _report(self, trainer) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if metrics:
            self.trial.report(step=trainer.global_step, **metrics)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return where an interrupted trial goes on; None for a new one."""
    return max(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime, default=None)
