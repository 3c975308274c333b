"""What a trial's result says about a script with the same batch size, where the loss depends on the batch."""

from collections.abc import Mapping

from tuner.study.hyperparameter import Scalar

WHOLE = (
    " The model's loss depends on which examples share a batch: trials were trained in whole batches, as a script with "
    "this batch size does, and their gradient noise was not measured."
)


def in_words(program: Mapping[str, Scalar | None] | None, batch_size: int) -> str:
    """Return a sentence for the evidence, with a space before it; nothing for models of independent examples."""
    if not program or not program.get("batch_dependent"):
        return ""
    micro_batch = program.get("micro_batch")
    if micro_batch in ("whole", batch_size):
        return WHOLE
    return (
        f" The model's loss depends on which examples share a batch, and this study asked for micro-batches of "
        f"{micro_batch}: its values are those of batches of {micro_batch} examples, not those of a script with batch "
        f"size {batch_size}. Leave out `micro_batch` to train in whole batches."
    )
