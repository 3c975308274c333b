"""Names of workloads: the built-in ones, and those that a user's module registers with `@workload`.

A factory is called once per stack: the data it loads is shared by all trials of the stack.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tuner.errors import Fault, InvalidInput, NotFound
from tuner.study.hyperparameter import Scalar
from tuner.workloads.task import Task

Factory = TypeVar("Factory", bound=Callable[..., Task])

_BUILT_IN = {
    name: f"tuner.workloads.{name.replace('-', '_')}"
    for name in (
        "digits-autoencoder",
        "digits-cnn",
        "digits-mlp",
        "linear-regression",
        "logistic-regression",
        "mlp-images",
        "noisy-quadratic",
        "resnet-images",
        "rosenbrock",
        "text-gpt",
    )
}
"""Name -> module, imported on demand; the modules read no data until a task is built."""

_factories: dict[str, Callable[..., Task]] = {}


def workload(name: str) -> Callable[[Factory], Factory]:
    """Register a factory (workload parameters as keyword arguments -> `Task`) under a name.

    Registering a different factory under an existing name raises `InvalidInput`; the same one may be imported again.
    """

    def register(factory: Factory) -> Factory:
        known = _factories.get(name)
        if known is not None and _origin(known) != _origin(factory):
            raise InvalidInput([Fault("workload", f"{name!r} is already registered by {_origin(known)}")])
        _factories[name] = factory
        return factory

    return register


def names() -> list[str]:
    """Return the names of all known workloads, sorted."""
    return sorted({*_BUILT_IN, *_factories})


def is_built_in(name: str) -> bool:
    """Whether a workload is one of Tuner's own."""
    return name in _BUILT_IN


def describe(name: str) -> str:
    """Return the first line of the factory's docstring; empty when there is none."""
    return (inspect.getdoc(_factory(name)) or "").partition("\n")[0]


def load(name: str, params: Mapping[str, Scalar]) -> Task:
    """Build a workload's task.

    Raises `NotFound` for an unknown name, `InvalidInput` for unknown or missing parameters.
    """
    factory = _factory(name)
    faults = _parameter_faults(name, factory, params)
    if faults:
        raise InvalidInput(faults)
    task = factory(**params)
    if not isinstance(task, Task):
        raise InvalidInput([Fault("workload", f"{name!r} returned {type(task).__name__}; expected a tuner.Task")])
    return task


def import_user_workloads(source: str) -> None:
    """Import a user's module, by file path (`my/problem.py`) or by name (`my.problem`), so that it registers its
    workloads.

    Raises `NotFound` if the file or module does not exist; other exceptions of the module pass through.
    """
    if not source.endswith(".py"):
        try:
            importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is not None and (source == error.name or source.startswith(error.name + ".")):
                raise NotFound(f"no module {source!r} to load workloads from") from error
            raise
        return
    path = Path(source).resolve()
    if not path.is_file():
        raise NotFound(f"no file {source!r} to load workloads from")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise NotFound(f"{source!r} cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)


def _origin(factory: Callable[..., Task]) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"


def _factory(name: str) -> Callable[..., Task]:
    if name not in _factories and name in _BUILT_IN:
        importlib.import_module(_BUILT_IN[name])
    try:
        return _factories[name]
    except KeyError:
        raise NotFound(f"no workload {name!r}; known are: {', '.join(names())}") from None


def _parameter_faults(name: str, factory: Callable[..., Task], params: Mapping[str, Scalar]) -> list[Fault]:
    signature = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
        return []
    taken = [parameter.name for parameter in signature]
    allowed = f"{name} takes {', '.join(taken)}" if taken else f"{name} takes no parameters"
    faults = [Fault(f"workload.params.{key}", f"is unknown; {allowed}") for key in params if key not in taken]
    missing = [p.name for p in signature if p.default is p.empty and p.name not in params]
    return faults + [Fault(f"workload.params.{key}", f"is missing; {allowed}") for key in missing]
