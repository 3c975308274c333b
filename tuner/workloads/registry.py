"""Names of workloads: the built-in ones, those that a user's module registers with `@workload`, those of packages.

Of equal names the built-in one counts, then the registered one. A package that cannot be imported costs its own
workloads and nothing else. A factory is called once per stack: the data it loads is shared by all trials of the stack.
"""

import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tuner.errors import Fault, InvalidInput, NotFound
from tuner.study.catalogue import EXTERNAL
from tuner.study.hyperparameter import Scalar
from tuner.workloads.installed import installed, package_of
from tuner.workloads.signature import describe_parameters, values_of
from tuner.workloads.task import Task
from tuner.workloads.value import SlotValue

log = logging.getLogger(__name__)

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
    if name == EXTERNAL:
        raise InvalidInput(
            [Fault("workload", f"{name!r} is for trials that a loop of your own trains; choose another")]
        )

    def register(factory: Factory) -> Factory:
        known = _factories.get(name)
        if known is not None and _origin(known) != _origin(factory):
            raise InvalidInput([Fault("workload", f"{name!r} is already registered by {_origin(known)}")])
        _factories[name] = factory
        return factory

    return register


def names() -> list[str]:
    """Return the names of all known workloads, sorted; a package's is not known to work before it is asked for."""
    return sorted({*_BUILT_IN, *_factories, *installed()})


def known() -> dict[str, str]:
    """Return the descriptions of all workloads that can be loaded, by name, sorted.

    A package that cannot be imported is named in a warning.
    """
    found = {}
    for name in names():
        try:
            found[name] = describe(name)
        except BrokenPackage as error:
            log.warning("%s", error, extra={"action": "load", "workload": name})
    return found


class BrokenPackage(NotFound):
    """A package's entry point names a workload that cannot be had from it; the cause says why."""


def origin(name: str) -> str:
    """Say where a workload comes from: `built-in`, `package NAME`, or the module that registered it."""
    if name in _BUILT_IN:
        return "built-in"
    module = _factories[name].__module__ if name in _factories else None
    point = installed().get(name)
    if point is not None and module in (None, point.module):
        return f"package {package_of(point)}"
    return f"module {module}"


def is_built_in(name: str) -> bool:
    """Whether a workload is one of Tuner's own."""
    return name in _BUILT_IN


def describe(name: str) -> str:
    """Return the first line of the factory's docstring; empty when there is none."""
    return (inspect.getdoc(_factory(name)) or "").partition("\n")[0]


def takes(name: str) -> dict[str, Any]:
    """Return what a workload takes, as workers tell it to the server (`describe_parameters`)."""
    return describe_parameters(_factory(name))


def load(name: str, params: Mapping[str, Scalar], values: Collection[str] = ()) -> Task:
    """Build a workload's task.

    The parameters named by `values`, which must be annotated `tuner.Value`, are numbers of each trial: the factory gets
    a handle, whose number for trials without one is in `params`, or else the factory's default.

    Raises `NotFound` for an unknown name, `InvalidInput` for unknown or missing parameters.
    """
    factory = _factory(name)
    handles = [SlotValue(value, _default(factory, value, params)) for value in sorted(values)]
    faults = _parameter_faults(name, factory, [*params, *values]) + _value_faults(name, factory, handles)
    if faults:
        raise InvalidInput(faults)
    task = factory(**{**params, **{handle.name: handle for handle in handles}})
    if not isinstance(task, Task):
        raise InvalidInput([Fault("workload", f"{name!r} returned {type(task).__name__}; expected a tuner.Task")])
    return task.with_values(handles) if handles else task


def import_user_workloads(source: str) -> list[str]:
    """Import a user's module, by file path (`my/problem.py`) or by name (`my.problem`), so that it registers its
    workloads; return the names of those registered meanwhile, in order.

    Raises `NotFound` if the file or module does not exist; other exceptions of the module pass through.
    """
    before = dict(_factories)
    if source.endswith(".py"):
        _import_file(source)
    else:
        _import_module(source)
    return [name for name, factory in _factories.items() if before.get(name) is not factory]


def _import_module(source: str) -> None:
    try:
        importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and (source == error.name or source.startswith(error.name + ".")):
            raise NotFound(f"no module {source!r} to load workloads from") from error
        raise


def _import_file(source: str) -> None:
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
    elif name not in _factories and name in installed():
        _import_installed(name)
    try:
        return _factories[name]
    except KeyError:
        raise NotFound(f"no workload {name!r}; known are: {', '.join(names())}") from None


def _import_installed(name: str) -> None:
    """Import a package's workload. Raises `BrokenPackage`."""
    point = installed()[name]
    what = f"the package {package_of(point)!r} names a workload {name!r} ({point.value})"
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # the package's own code runs here
        raise BrokenPackage(f"{what}, which does not load: {type(error).__name__}: {error}") from error
    if name not in _factories and callable(found):
        _factories[name] = found
    if name not in _factories:
        raise BrokenPackage(f"{what}, which is {type(found).__name__} and registers no workload of this name")


def _parameter_faults(name: str, factory: Callable[..., Task], params: Collection[str]) -> list[Fault]:
    signature = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
        return []
    taken = [parameter.name for parameter in signature]
    allowed = f"{name} takes {', '.join(taken)}" if taken else f"{name} takes no parameters"
    faults = [Fault(f"workload.params.{key}", f"is unknown; {allowed}") for key in params if key not in taken]
    missing = [p.name for p in signature if p.default is p.empty and p.name not in params]
    return faults + [Fault(f"workload.params.{key}", f"is missing; {allowed}") for key in missing]


def _value_faults(name: str, factory: Callable[..., Task], handles: Collection[SlotValue]) -> list[Fault]:
    known = values_of(factory)
    told = f"{name} has {', '.join(sorted(known))}" if known else f"{name} has none"
    return [
        Fault(f"workload.{handle.name}", f"is not annotated tuner.Value; {told}")
        for handle in handles
        if handle.name not in known
    ]


def _default(factory: Callable[..., Task], value: str, params: Mapping[str, Scalar]) -> float | None:
    """Return the number of a value in trials that do not have it; None if there is none."""
    parameter = inspect.signature(factory).parameters.get(value)
    found = params.get(value, None if parameter is None else parameter.default)
    return float(found) if isinstance(found, int | float) else None
