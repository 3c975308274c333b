"""The model as a function of its parameters.

Trainable parameters come from the stack's flat buffer; what no trial changes is `shared`; everything else (buffers,
other frozen parameters, the trial's values) is in the slot's `extras`. The modules kept here are templates: of their
own weights only the shared ones are read. A forward pass changes none of its arguments: it returns new buffers.
"""

import copy
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tuner import draws as own_draws
from tuner.engine.feed import on_device
from tuner.engine.initial_weights import InitialWeights
from tuner.engine.layers import dropout, stackable
from tuner.engine.layers.counted import TRANSFORM, CountedWords, found_drawing
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.layers.dropout import Draws, draws_of
from tuner.engine.layout import Layout
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.seeds import INITIALISATION, derive
from tuner.engine.shared import Shared, alike, changed_later, held, unwritten
from tuner.engine.values import TrialValues
from tuner.errors import Fault, InvalidInput
from tuner.optimizers.roles import roles_of_model
from tuner.optimizers.rule import Role
from tuner.study.hyperparameter import Scalar
from tuner.workloads import Task
from tuner.workloads.examples import Data
from tuner.workloads.tree import call

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]

TRIED = 4
"""Most examples of the dry runs that find what is shared, and whether a pass draws."""


class Architecture:
    """A task's model and loss on one device in one dtype."""

    def __init__(self, task: Task, device: torch.device, dtype: torch.dtype) -> None:
        self.task = task
        self.device = device
        self.dtype = dtype
        self.shared = Shared({}, lambda: self._whole(0))
        self.training = self._whole(0).train()
        self.evaluating = copy.deepcopy(self.training, {id(each): each for each in held(self.training).values()}).eval()
        self._dropouts = dropout.install(self.training)
        dropout.disarm(self.evaluating)
        self.values = TrialValues(task.values, [part.p for part in self._dropouts.values()], device, dtype)
        self._buffers = [name for name, _ in self.evaluating.named_buffers()]
        self._saved = _saved_names(self.evaluating)
        self.shared = self._find_shared()
        self._buffers = [name for name in self._buffers if name not in self.shared.tensors]
        self._initial = InitialWeights(task, self.shared.tensors)
        self._stackable = self.copy(self.training)
        stackable.install(self._stackable)
        shapes = {name: p.shape for name, p in self.training.named_parameters() if p.requires_grad}
        if not shapes:
            raise InvalidInput("the workload's model has no parameters to train")
        self.layout = Layout(shapes, dtype)

    def build(self, seed: int) -> nn.Module:
        """Return a module with the initial weights of a trial with this seed, and the shared tensors themselves."""
        return self._placed(self.task.build_model(derive(seed, INITIALISATION), self.shared.tensors))

    def copy(self, module: nn.Module) -> nn.Module:
        """Copy a template but for the shared tensors."""
        return copy.deepcopy(module, self.shared.instead())

    def _whole(self, seed: int) -> nn.Module:
        return self._placed(self.task.build_model(derive(seed, INITIALISATION)))

    def _find_shared(self) -> Shared:
        """Find what is shared, in a model that has anything frozen, or buffers."""
        own = held(self.evaluating)
        names = alike(own, held(self._whole(1))) if own else set()
        if names:
            try:
                index = np.arange(min(TRIED, self.task.examples))
                data = on_device(self.task.read(index), self.device, self.dtype)
                attempts = [partial(self._try_training, data), partial(self._try_evaluating, data)]
                names = unwritten(attempts, {name: own[name] for name in names})
            except Exception as error:  # the trials' boundary: the workload's own code runs here
                if is_out_of_memory(error):
                    raise
                log.info("every slot holds what is frozen", extra={"action": "dry run", "reason": repr(error)})
                names = set()
        return Shared({name: own[name] for name in own if name in names}, lambda: self._whole(0))

    def _try_training(self, data: Data, tensors: Tensors) -> Tensors:
        draws = draws_of(0, 0, len(data[0]), self.device)
        params = {name: p.detach().requires_grad_() for name, p in self.training.named_parameters() if p.requires_grad}
        extras = {name: extra for name, extra in self.extras(self.training).items() if name not in tensors}
        with torch.enable_grad(), drawing(self.device):
            draw_from(0, self.device)
            return self._loss_at(self.training, params | extras | tensors, draws, data)[1]

    def _try_evaluating(self, data: Data, tensors: Tensors) -> Tensors:
        given = self.values.begin(self.values.tensors(None) | tensors)
        try:
            with self.evaluation(), drawing(self.device):
                draw_from(0, self.device)
                run(self.evaluating, given, self.changed(data, draws_of(0, 0, len(data[0]), self.device))[0])
        finally:
            own_draws.end()
            self.values.end()
        return given

    def _placed(self, module: nn.Module) -> nn.Module:
        """Move a module to the device and the dtype. Complex buffers stay complex: `Module.to` would make them real."""
        for name, parameter in module.named_parameters():
            if parameter.is_complex():
                kind = str(parameter.dtype).removeprefix("torch.")
                raise InvalidInput([Fault(name, f"is {kind}; allowed are real floating-point parameters")])
        parts = [(part, name, value) for part in module.modules() for name, value in part.named_buffers(recurse=False)]
        complex_ones = [(part, name, value) for part, name, value in parts if value.is_complex()]
        for part, name, _ in complex_ones:
            setattr(part, name, None)
        module = module.to(device=self.device, dtype=self.dtype)
        for part, name, value in complex_ones:
            setattr(part, name, value.to(self.device, self.dtype.to_complex()))
        return module

    def fresh(self, seed: int) -> nn.Module:
        """Return the same weights for copying: float32 on the CPU, in a module that is valid until the next call."""
        return self._initial.model(derive(seed, INITIALISATION))

    def extras(self, module: nn.Module, params: Mapping[str, Scalar] | None = None) -> Tensors:
        """Copy what a trial holds of a module's buffers and frozen parameters, and add the values for these `params`.

        Without `params` the values are what a dry run uses. Raises `InvalidInput` for illegal values.
        """
        own = {name: tensor for name, tensor in held(module).items() if name not in self.shared.tensors}
        return self.values.tensors(params) | {name: tensor.detach().clone() for name, tensor in own.items()}

    def state_dict(self, params: Tensors, extras: Tensors) -> Tensors:
        """Copy the tensors of a slot under the names of the model's own `state_dict`: all names of tied ones."""
        tensors = {**self.shared.tensors, **extras, **params}
        return {name: tensors[own].detach().clone() for name, own in self._saved.items()}

    def roles(self) -> dict[str, Role]:
        """Return the role of every trainable parameter. Raises `InvalidInput` for those that the task gets wrong."""
        roles = roles_of_model(self.training, self.task.roles)
        return {place.name: roles[place.name] for place in self.layout.places}

    def parameter_names(self) -> list[str]:
        """Return the names of all parameters, frozen ones too, in the model's own order."""
        return [name for name, _ in self.training.named_parameters()]

    @cached_property
    def draws(self) -> bool:
        """Whether a training pass needs random numbers: dropout, a transform, or, as a dry run finds, `tuner.draws`."""
        return bool(self._dropouts) or self.task.transform is not None or found_drawing(self._pass_once, self.device)

    def _pass_once(self) -> None:
        data = self.task.read(np.arange(min(TRIED, self.task.examples)))
        params = {name: p.detach() for name, p in self.training.named_parameters() if p.requires_grad}
        with self.evaluation():
            given = self.shared.tensors | params | self.extras(self.training)
            self._loss_at(self.training, given, (), on_device(data, self.device, self.dtype))

    def changed(self, data: Data, draws: Draws) -> tuple[Any, list[Any]]:
        """Return inputs and targets of a batch as the task's transform makes them, and let the model draw after that.

        `tuner.draws.end` has to follow, where there are draws.
        """
        if self.task.transform is not None:
            own_draws.begin(CountedWords(draws, TRANSFORM))
        batch = self.task.batch_of(data)
        if draws:
            own_draws.begin(CountedWords(draws))
        return batch

    def evaluation(self) -> AbstractContextManager[Any]:
        """Return the context of evaluating: without gradients, unless the model needs them to compute its output."""
        return torch.set_grad_enabled(self.task.evaluate_with_grad)

    def loss(
        self, params: Tensors, extras: Tensors, draws: Draws, *data: Tensor, stacked: bool = False
    ) -> tuple[Tensor, Tensors]:
        """Return the mean loss of one slot on its micro-batch, in training mode, and its new buffers.

        `data` are the tensors of the batch, flat; `draws` are its (key [2], examples [b]), empty if it draws
        none; `stacked` selects the layers that work under vmap.
        """
        given = {**self.shared.tensors, **params, **extras}
        given |= {name: given[name].clone() for name in self._buffers}
        loss, left = self._loss_at(self._stackable if stacked else self.training, given, draws, data)
        changed = [name for name in self.shared.tensors if left[name] is not given[name]]
        if changed:
            raise changed_later(changed)
        if loss.dim() != 0:
            raise InvalidInput(f"the workload's loss has shape {list(loss.shape)}; expected one number, the mean")
        return loss.to(self.dtype), {name: left[name] for name in self._buffers}

    def _loss_at(self, model: nn.Module, given: Tensors, draws: Draws, data: Data) -> tuple[Tensor, Tensors]:
        """Return the loss of one slot, and the tensors that the pass has left in the places of those given."""
        tensors = self.values.begin(dict(given))
        for name in self._dropouts:
            part = model.get_submodule(name)
            part.calls = 0  # type: ignore[assignment]
            prefix = f"{name}." if name else ""
            tensors[f"{prefix}key"], tensors[f"{prefix}examples"] = draws
        try:
            inputs, targets = self.changed(data, draws)
            # Without autocast's cache, which would keep weights that the next step changes.
            with torch.autocast(self.device.type, torch.bfloat16, self.task.precision == "bf16", cache_enabled=False):
                loss = self.task.loss_of(run(model, tensors, inputs), targets)
        finally:
            self.values.end()
            if draws:
                own_draws.end()
        return loss, tensors


def run(model: nn.Module, tensors: Tensors, inputs: Any) -> Any:
    """Return a model's output with these parameters and buffers, in which it leaves new buffers."""
    return call(lambda *args, **kwargs: functional_call(model, tensors, args, kwargs), inputs)


def _saved_names(module: nn.Module) -> dict[str, str]:
    """Return the names in a module's `state_dict`, each with the first name of its tensor: tied ones have several."""
    first = {id(tensor): name for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    saved = module.state_dict(keep_vars=True)
    return {name: first[id(tensor)] for name, tensor in saved.items() if id(tensor) in first}
