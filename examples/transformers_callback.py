"""The Trainer of transformers in a loop of your own: one callback reports, and ends training when it should.

    for trial in tuner.Client().ask("my-study"):
        arguments = TrainingArguments(
            output_dir=trial.checkpoint_dir, learning_rate=trial.params.lr, seed=trial.seed % 2**32
        )
        trainer = Trainer(model_init=my_model, args=arguments, callbacks=[TunerCallback(trial)], ...)
        trainer.train(resume_from_checkpoint=any(trial.checkpoint_dir.glob("checkpoint-*")))
        trial.finish(trainer.evaluate()["eval_loss"])

An interrupted trial goes on from the Trainer's own checkpoints, in its folder.
"""

from transformers import TrainerCallback


class TunerCallback(TrainerCallback):
    """Reports the numbers that the Trainer logs, evaluations among them."""

    def __init__(self, trial) -> None:
        self.trial = trial

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Report a line of the log."""
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if numbers:
            self.trial.report(step=state.global_step, **numbers)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Stop where the trial should."""
        if self.trial.should_stop:
            control.should_training_stop = True
