"""A PyTorch `DataLoader` as data: its data set, `collate_fn` and worker processes are used.

Batch size and order are hyperparameters and the trial's own stream here, so what a loader says of them is left aside
where it is usual, and refused where it means something: a sampler or batch sampler of one's own.
"""

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from tuner.errors import Fault, InvalidInput
from tuner.workloads.examples import Source
from tuner.workloads.items import Items, Workers


def source_of_loader(field: str, loader: "DataLoader[object]") -> Source | tuple[Tensor, ...]:
    """Return the source of a loader's examples, or its tensors. Raises `InvalidInput` where its order matters."""
    fault = _fault(loader)
    if fault is not None:
        raise InvalidInput([Fault(field, fault)])
    if loader.collate_fn is default_collate:
        return source_of_dataset(field, loader.dataset, _workers(loader))
    return Items(field, loader.dataset, loader.collate_fn, _workers(loader))


def source_of_dataset(field: str, dataset: object, workers: Workers | None = None) -> Source | tuple[Tensor, ...]:
    """Return the source of a data set's examples, or the tensors of which it is made."""
    if isinstance(dataset, IterableDataset):
        message = f"is {type(dataset).__name__}, an IterableDataset; allowed is data that takes an index: trials read "
        raise InvalidInput([Fault(field, f"{message}it in orders of their own (read it into tensors, or into files)")])
    if not len(dataset):  # type: ignore[arg-type]
        raise InvalidInput([Fault(field, "is empty; allowed is at least one example")])
    tensors = _tensors(dataset)
    return Items(field, dataset, None, workers) if tensors is None else tensors


def _tensors(dataset: object) -> tuple[Tensor, ...] | None:
    """Return the tensors of a `TensorDataset`, or of a part of one."""
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset:
        whole = _tensors(dataset.dataset)
        index = torch.as_tensor(dataset.indices)
        return None if whole is None else tuple(item[index.to(item.device)] for item in whole)
    return None


def _workers(loader: "DataLoader[object]") -> Workers:
    return Workers(loader.num_workers, loader.worker_init_fn, loader.multiprocessing_context)


def _fault(loader: "DataLoader[object]") -> str | None:
    if isinstance(loader.dataset, IterableDataset):
        return None  # refused as a data set
    if loader.batch_sampler is None:
        return "is a DataLoader with batch_size=None; allowed is one whose data set gives single examples"
    if type(loader.batch_sampler) is not BatchSampler:
        kind = type(loader.batch_sampler).__name__
        return f"is a DataLoader with the batch_sampler {kind}; allowed is none: batch sizes are hyperparameters here"
    sampler = loader.sampler
    plain = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    )
    if plain:
        return None
    message = f"is a DataLoader with the sampler {type(sampler).__name__}; allowed are plain random and sequential ones"
    return f"{message}: every trial has an order of its own (Task(weights=...) draws examples by weight)"
