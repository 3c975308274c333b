"""The model as a function of its parameters.

Trainable parameters come from the stack's flat buffer; everything else (buffers, frozen parameters, the trial's values)
is in the slot's `extras`. The modules kept here are templates: their own weights are never read. A forward pass changes
none of its arguments: it returns new buffers.
"""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tuner.engine.initial_weights import InitialWeights
from tuner.engine.layers import dropout, stackable
from tuner.engine.layers.dropout import Draws
from tuner.engine.layout import Layout
from tuner.engine.seeds import INITIALISATION, derive
from tuner.engine.values import TrialValues
from tuner.errors import Fault, InvalidInput
from tuner.optimizers.roles import roles_of_model
from tuner.optimizers.rule import Role
from tuner.study.hyperparameter import Scalar
from tuner.workloads import Task
from tuner.workloads.tree import call

Tensors = dict[str, Tensor]


class Architecture:
    """A task's model and loss on one device in one dtype."""

    def __init__(self, task: Task, device: torch.device, dtype: torch.dtype) -> None:
        self.task = task
        self.device = device
        self.dtype = dtype
        self.training = self.build(0)
        self._initial = InitialWeights(task)
        self.training.train()
        self.evaluating = copy.deepcopy(self.training).eval()
        self._dropouts = dropout.install(self.training)
        dropout.disarm(self.evaluating)
        self.values = TrialValues(task.values, [part.p for part in self._dropouts.values()], device, dtype)
        self._buffers = [name for name, _ in self.evaluating.named_buffers()]
        self._saved = _saved_names(self.evaluating)
        self._stackable = copy.deepcopy(self.training)
        stackable.install(self._stackable)
        shapes = {name: p.shape for name, p in self.training.named_parameters() if p.requires_grad}
        if not shapes:
            raise InvalidInput("the workload's model has no parameters to train")
        self.layout = Layout(shapes, dtype)

    def build(self, seed: int) -> nn.Module:
        """Return a module with the initial weights of a trial with this seed."""
        return self._placed(self.task.build_model(derive(seed, INITIALISATION)))

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
        """Copy the buffers and frozen parameters of a module, and add the values of a trial with these `params`.

        Without `params` the values are what a dry run uses. Raises `InvalidInput` for illegal values.
        """
        frozen = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
        own = self.values.tensors(params)
        return own | frozen | {name: buffer.clone() for name, buffer in module.named_buffers()}

    def state_dict(self, params: Tensors, extras: Tensors) -> Tensors:
        """Copy the tensors of a slot under the names of the model's own `state_dict`: all names of tied ones."""
        tensors = {**extras, **params}
        return {name: tensors[own].detach().clone() for name, own in self._saved.items()}

    def roles(self) -> dict[str, Role]:
        """Return the role of every trainable parameter. Raises `InvalidInput` for those that the task gets wrong."""
        roles = roles_of_model(self.training, self.task.roles)
        return {place.name: roles[place.name] for place in self.layout.places}

    @property
    def draws(self) -> bool:
        """Whether a forward pass needs random numbers from `dropout`."""
        return bool(self._dropouts)

    def evaluation(self) -> AbstractContextManager[Any]:
        """Return the context of evaluating: without gradients, unless the model needs them to compute its output."""
        return torch.set_grad_enabled(self.task.evaluate_with_grad)

    def loss(
        self, params: Tensors, extras: Tensors, draws: Draws, *data: Tensor, stacked: bool = False
    ) -> tuple[Tensor, Tensors]:
        """Return the mean loss of one slot on its micro-batch, in training mode, and its new buffers.

        `data` are the tensors of the batch, flat; `draws` are its (key [2], examples [b]), empty without dropout;
        `stacked` selects the layers that work under vmap.
        """
        model = self._stackable if stacked else self.training
        tensors = self.values.begin({**params, **extras})
        tensors |= {name: tensors[name].clone() for name in self._buffers}
        for name in self._dropouts:
            part = model.get_submodule(name)
            part.calls = 0  # type: ignore[assignment]
            prefix = f"{name}." if name else ""
            tensors[f"{prefix}key"], tensors[f"{prefix}examples"] = draws
        structure = self.task.training.structure
        # Without autocast's cache, which would keep weights that the next step changes.
        with torch.autocast(self.device.type, torch.bfloat16, self.task.precision == "bf16", cache_enabled=False):
            try:
                output = run(model, tensors, structure.inputs(data))
                loss = self.task.loss_of(output, structure.targets(data))
            finally:
                self.values.end()
        if loss.dim() != 0:
            raise InvalidInput(f"the workload's loss has shape {list(loss.shape)}; expected one number, the mean")
        return loss.to(self.dtype), {name: tensors[name] for name in self._buffers}


def run(model: nn.Module, tensors: Tensors, inputs: Any) -> Any:
    """Return a model's output with these parameters and buffers, in which it leaves new buffers."""
    return call(lambda *args, **kwargs: functional_call(model, tensors, args, kwargs), inputs)


def _saved_names(module: nn.Module) -> dict[str, str]:
    """Return the names in a module's `state_dict`, each with the first name of its tensor: tied ones have several."""
    first = {id(tensor): name for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    saved = module.state_dict(keep_vars=True)
    return {name: first[id(tensor)] for name, tensor in saved.items() if id(tensor) in first}
