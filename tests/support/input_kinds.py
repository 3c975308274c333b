"""Tasks by what their batches are made of, each with the loss that a script of one's own would compute."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, Dataset, Subset

from tuner.workloads import Task

EXAMPLES, VALID, CLASSES, WORDS, LENGTH = 61, 13, 4, 9, 5
"""61 is no multiple of any batch."""


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """Return data for all kinds: x [61, 6], ids [61, 5], mask [61, 5], y [61], z [61, 2]."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(EXAMPLES, LENGTH, dtype=torch.int64)
    mask[::3, -2:] = 0
    return {
        "x": torch.randn(EXAMPLES, 6, generator=generator),
        "ids": torch.randint(0, WORDS, (EXAMPLES, LENGTH), generator=generator),
        "mask": mask,
        "y": torch.randint(0, CLASSES, (EXAMPLES,), generator=generator),
        "z": torch.randn(EXAMPLES, 2, generator=generator),
    }


class Two(nn.Module):
    """Numbers and words, as two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.numbers, self.head = nn.Embedding(WORDS, 7), nn.Linear(6, 7), nn.Linear(7, CLASSES)

    def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
        found: Tensor = self.head(torch.tanh(self.numbers(numbers) + self.words(words).mean(1)))
        return found


class Named(nn.Module):
    """Named arguments, one of which may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 6), nn.Linear(6, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.words(input_ids)
        if attention_mask is not None:
            x = x * attention_mask[..., None].to(x.dtype)
        found: Tensor = self.head(torch.tanh(x.mean(1)))
        return found


@dataclass
class LanguageOutput(OrderedDict[str, Any]):
    """In the manner of transformers' ModelOutput: attributes and keys, of what is not None."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) is not None:
                self[each.name] = getattr(self, each.name)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, each.name) for each in fields(self))


class Language(nn.Module):
    """Computes its own loss, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(WORDS, 6), nn.Linear(6, 6), nn.Linear(6, WORDS)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> LanguageOutput:
        x = self.words(input_ids)
        if attention_mask is not None:
            x = x * attention_mask[..., None].to(x.dtype)
        hidden = torch.tanh(self.mix(x))
        logits = self.head(hidden)
        loss = None if labels is None else cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return LanguageOutput(loss, logits, (x, hidden))


@dataclass(frozen=True)
class Heads:
    """A plain dataclass as output."""

    classes: Tensor
    places: dict[str, list[Tensor]]


class Many(nn.Module):
    """Several outputs, nested."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.places = nn.Linear(6, 7), nn.Linear(7, CLASSES), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Heads:
        hidden = torch.tanh(self.body(x))
        return Heads(self.classes(hidden), {"places": [self.places(hidden)]})


def both(output: Heads, targets: dict[str, Tensor], places: tuple[Tensor]) -> Tensor:
    """Return the loss of `Many`."""
    return cross_entropy(output.classes, targets["classes"]) + mse_loss(output.places["places"][0], places[0])


class Coder(nn.Module):
    """Reconstructs its input, which its output carries: there is no target."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.back = nn.Linear(6, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.back(torch.tanh(self.code(x))), x


Plain = Callable[[nn.Module, dict[str, Tensor]], Tensor]
"""From a model and a batch of `tensors` to the loss."""


def two(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of `Two` on a batch."""
    return cross_entropy(model(batch["x"], batch["ids"]), batch["y"])


def named(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of `Named` on a batch."""
    return cross_entropy(model(input_ids=batch["ids"], attention_mask=batch["mask"]), batch["y"])


def language(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of `Language` on a batch."""
    found: Tensor = model(batch["ids"], batch["mask"], batch["ids"]).loss
    return found


def many(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of `Many` on a batch."""
    return both(model(batch["x"]), {"classes": batch["y"]}, (batch["z"],))


def coder(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of `Coder` on a batch."""
    return mse_loss(*model(batch["x"]))


def _cut(data: Any) -> Any:
    """Return the first examples, of any structure of tensors."""
    if isinstance(data, dict):
        return {key: _cut(value) for key, value in data.items()}
    return data[:VALID] if isinstance(data, Tensor) else type(data)(_cut(part) for part in data)


def _read(model: Callable[[], nn.Module], loss: Any, train: Any) -> Task:
    """The first examples are for validation, of the same kind."""
    if not isinstance(train, DataLoader):
        return Task(model, loss, train, Subset(train, range(VALID)))
    part = Subset(train.dataset, range(VALID))
    return Task(model, loss, train, DataLoader(part, num_workers=train.num_workers, collate_fn=train.collate_fn))


def _task(model: Callable[[], nn.Module], loss: Any, train: Any) -> Task:
    return Task(model, loss, train, _cut(train))


class Pairs(Dataset[Any]):
    """Example by example: a tensor, and the class as a number of Python's; float64, which is rounded once."""

    def __init__(self, broken: int | None = None) -> None:
        self.data, self.broken, self.reads = tensors(), broken, list[int]()

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, number: int) -> tuple[Any, int]:
        self.reads.append(number)
        if number == self.broken:
            raise OSError(f"example {number} cannot be read")
        return (self.data["x"][number].double().numpy(), self.data["ids"][number]), int(self.data["y"][number])


class Rows:
    """In the manner of Hugging Face's data sets: rows of lists by number, columns by numbers."""

    def __init__(self) -> None:
        data = tensors()
        names = {"input_ids": "ids", "attention_mask": "mask", "labels": "ids"}
        self.columns = {name: data[own].tolist() for name, own in names.items()}

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, place: int | list[int]) -> dict[str, Any]:
        if isinstance(place, int):
            return {name: column[place] for name, column in self.columns.items()}
        return {name: [column[number] for number in place] for name, column in self.columns.items()}


def collated(items: list[Any]) -> list[Any]:
    """A collate_fn of one's own: named inputs, and the class."""
    words = torch.stack([ids for (_, ids), _ in items])
    mask = torch.stack([tensors()["mask"][0]] * len(items)) * 0 + 1
    return [{"input_ids": words, "attention_mask": mask}, torch.tensor([y for _, y in items])]


def task_of(kind: str) -> Task:
    """Return a task whose batches are of this kind."""
    t = tensors()
    words = {"input_ids": t["ids"], "attention_mask": t["mask"]}
    return {
        "tuple input": lambda: _task(Two, cross_entropy, ((t["x"], t["ids"]), t["y"])),
        "list input": lambda: _task(Two, cross_entropy, ([t["x"], t["ids"]], t["y"])),
        "dict input": lambda: _task(Named, cross_entropy, (words, t["y"])),
        "the model's loss": lambda: _task(Language, None, words | {"labels": t["ids"]}),
        "nested output and targets": lambda: _task(Many, both, (t["x"], {"classes": t["y"]}, (t["z"],))),
        "no target": lambda: _task(Coder, lambda output: mse_loss(*output), (t["x"],)),
        "Dataset": lambda: _read(Two, cross_entropy, Pairs()),
        "DataLoader": lambda: _read(Named, cross_entropy, DataLoader(Pairs(), 32, shuffle=True, collate_fn=collated)),
        "DataLoader with processes": lambda: _read(Two, cross_entropy, DataLoader(Pairs(), num_workers=2)),
        "rows": lambda: _read(Language, None, Rows()),
    }[kind]()


KINDS: dict[str, Plain] = {
    "tuple input": two,
    "list input": two,
    "dict input": named,
    "the model's loss": language,
    "nested output and targets": many,
    "no target": coder,
    "Dataset": two,
    "DataLoader": lambda model, batch: named(model, {**batch, "mask": torch.ones_like(batch["mask"])}),
    "DataLoader with processes": two,
    "rows": language,
}
"""What `task_of` makes, with the loss of a script of one's own."""
