"""Figures: pure functions from wire values to a Plotly figure as a JSON-able dict (`{"data": [...], "layout": {...}}`).

The dashboard, a notebook and a report therefore show the same figure. Invariants of every builder:

- the same input gives the same bytes (samples are strided, never drawn at random);
- at most `sample.LIMIT` points, always including the best trials; "n of N" is shown when some were left out;
- numbers are sent as Plotly typed arrays, so NaN and infinity never reach the JSON text;
- only SVG traces: WebGL traces and parcoords evaluate generated code, which the dashboard's CSP forbids;
- without data the figure shows one sentence, never an error;
- the study's goal decides which trial is better and which edge of the figure means "worse".

| name           | builder                                | shows                                                      |
|----------------|----------------------------------------|------------------------------------------------------------|
| `curves`       | `curves(study, trials, curves)`        | the metric over examples, one line per trial               |
| `loss_vs_lr`   | `loss_vs_lr(study, trials)`            | value against learning rate, per optimizer                 |
| `lr_batch`     | `lr_batch(study, trials)`              | learning rate x batch size, coloured by value              |
| `progress`     | `progress(study, trials)`              | best so far against trials finished                        |
| `noise`        | `noise(study, trace)`                  | gradient noise scale over examples, with its 95 % interval |
| `batch_advice` | `batch_advice(study, advice)`          | recommended batch sizes, per optimizer                     |
"""

from api.figures.batch_advice import batch_advice
from api.figures.curves import curves
from api.figures.loss_vs_lr import loss_vs_lr
from api.figures.lr_batch import lr_batch
from api.figures.noise import NoisePoint, noise
from api.figures.progress import progress
from api.figures.theme import Figure

FIGURES: dict[str, str] = {
    "curves": "The metric over examples seen, one line per trial; the best trial's line is thicker.",
    "loss_vs_lr": "The metric of every finished trial against its learning rate; the best of each optimizer is a star.",
    "lr_batch": "Learning rate against batch size, coloured by the metric; crosses mark diverged trials.",
    "progress": "The best value so far against the number of trials finished; every dot is a trial.",
    "noise": "The gradient noise scale over examples with its 95 % interval; arrows mean no upper bound yet.",
    "batch_advice": "Recommended batch sizes for each optimizer, with the interval of the critical batch size.",
}
"""What each figure shows, by the name under which the API serves it."""

__all__ = [
    "FIGURES",
    "Figure",
    "NoisePoint",
    "batch_advice",
    "curves",
    "loss_vs_lr",
    "lr_batch",
    "noise",
    "progress",
]
