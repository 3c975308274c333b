"""The model as a function of its parameters.

Trainable parameters come from the stack's flat buffer; everything else that a module carries (buffers, frozen
parameters) is the slot's `extras`. The modules kept here are templates: their own weights are never read.
"""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tuner.engine.layout import Layout
from tuner.engine.seeds import INITIALISATION, derive
from tuner.errors import InvalidInput
from tuner.workloads import Task

Tensors = dict[str, Tensor]


class Architecture:
    """A task's model and loss on one device in one dtype."""

    def __init__(self, task: Task, device: torch.device, dtype: torch.dtype) -> None:
        self.task = task
        self.device = device
        self.dtype = dtype
        self.training = self.build(0)
        self.training.train()
        self.evaluating = copy.deepcopy(self.training).eval()
        shapes = {name: p.shape for name, p in self.training.named_parameters() if p.requires_grad}
        if not shapes:
            raise InvalidInput("the workload's model has no parameters to train")
        self.layout = Layout(shapes, dtype)

    def build(self, seed: int) -> nn.Module:
        """Return a module with the initial weights of a trial with this seed."""
        module = self.task.build_model(derive(seed, INITIALISATION))
        return module.to(device=self.device, dtype=self.dtype)

    def extras(self, module: nn.Module) -> Tensors:
        """Copy what a module carries besides its trainable parameters."""
        frozen = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
        return frozen | {name: buffer.clone() for name, buffer in module.named_buffers()}

    @property
    def has_extras(self) -> bool:
        """Whether slots carry more than trainable parameters."""
        return bool(self.extras(self.training))

    def loss(self, params: Tensors, extras: Tensors, inputs: Tensor, *targets: Tensor) -> Tensor:
        """Return the mean loss of one slot on its micro-batch, in training mode. Writes its buffers in `extras`."""
        output = functional_call(self.training, {**params, **extras}, (inputs,))
        loss = self.task.loss(output, *targets)
        if loss.dim() != 0:
            raise InvalidInput(f"the workload's loss has shape {list(loss.shape)}; expected is one number, the mean")
        return loss
