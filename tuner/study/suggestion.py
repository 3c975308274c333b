"""What a user may have meant by a name that is not known: other spellings, other libraries' words, slips."""

import difflib
from collections.abc import Collection

_MEANT = {
    "lr": ("learning_rate", "step_size", "eta", "eta0", "lr0"),
    "batch_size": ("bs", "batch", "minibatch", "minibatch_size", "train_batch_size", "per_device_train_batch_size"),
    "weight_decay": ("wd", "decay", "l2", "lambda"),
    "momentum": ("mom", "mu", "beta"),
    "beta1": ("b1", "betas", "beta"),
    "beta2": ("b2", "betas"),
    "eps": ("epsilon",),
    "clip_norm": ("grad_clip", "clip", "max_grad_norm", "max_norm", "gradient_clip_val", "gradient_clipping"),
    "schedule": ("scheduler", "lr_scheduler", "lr_schedule", "lr_scheduler_type"),
    "warmup": ("warmup_steps", "warmup_ratio", "num_warmup_steps"),
    "run_cap": ("trials", "max_trials", "n_trials", "num_trials", "num_samples", "count", "runs"),
    "workload": ("problem", "task", "model", "program"),
    "metric": ("objective", "goal"),
    "method": ("sampler", "search", "algorithm", "strategy"),
    "parameters": ("params", "space", "search_space", "hyperparameters", "config"),
    "parallel": ("concurrency", "max_concurrent", "workers", "n_jobs"),
    "constant": ("none",),
    "cosine": ("cosine_annealing", "cosine_annealing_lr", "cosineannealinglr", "cosine_annealing_warm_restarts"),
    "one_cycle": ("one_cycle_lr", "onecycle"),
    "wsd": ("warmup_stable_decay", "trapezoidal"),
}
"""The name here, and the words that others use for it."""


def suggest(word: str, known: Collection[str]) -> str | None:
    """Return the known name that was most likely meant by `word`, or None."""
    plain = {_plain(name): name for name in known}
    wanted = _plain(word.rpartition(".")[2])  # e.g. torch.optim.AdamW
    if wanted in plain:
        return plain[wanted]
    for name, others in _MEANT.items():
        if name in known and wanted in map(_plain, others):
            return name
    close = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def hint(word: str, known: Collection[str], otherwise: str) -> str:
    """Return `did you mean 'lr'?`, or else `otherwise`, e.g. a list of what is known."""
    meant = suggest(word, known)
    return f"did you mean {meant!r}?" if meant is not None else otherwise


def _plain(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum())
