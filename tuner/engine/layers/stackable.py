"""Layers in the form in which a stack runs them: the mathematics of torch's layers, with bits independent of the slot.

Under vmap torch folds the slots into the channels of one grouped convolution or one batch normalisation. Their kernels
treat the last channels differently from the others, so that a trial's bits would depend on its slot. Here a convolution
is one matrix product per slot, and batch normalisation consists of means and single-rounding operations. The layers
replace torch's on a copy of the model, by exact type; parameters, buffers and their names are unchanged.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, unfold

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class StackedConv2d(nn.Conv2d):
    """`nn.Conv2d` as patches times weights; every stride, padding, dilation and number of groups."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padded = _padded(input, self)
        stride, dilation = cast(tuple[int, int], self.stride), cast(tuple[int, int], self.dilation)
        return convolve(padded, weight, bias, stride, dilation, self.groups)


class StackedConv1d(nn.Conv1d):
    """`nn.Conv1d` as a convolution over images of height 1."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padded = _padded(input, self)[:, :, None]
        stride, dilation = (1, self.stride[0]), (1, self.dilation[0])
        return convolve(padded, weight[:, :, None], bias, stride, dilation, self.groups)[:, :, 0]


def convolve(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], dilation: tuple[int, int], groups: int
) -> Tensor:
    """Return the convolution of [b, groups * c, H, W] with [groups * o, c, k, l]: [b, groups * o, h, w]."""
    out, c, k, l = weight.shape  # noqa: E741
    b = input.shape[0]
    h, w = (
        (size - d * (kernel - 1) - 1) // s + 1
        for size, kernel, s, d in zip(input.shape[2:], (k, l), stride, dilation, strict=True)
    )
    patches = unfold(input, (k, l), dilation=dilation, stride=stride)  # [b, groups * c * k * l, h * w]
    patches = patches.transpose(0, 1).reshape(groups, c * k * l, b * h * w)
    result = torch.bmm(weight.reshape(groups, out // groups, c * k * l), patches).reshape(out, b, h, w)
    if bias is not None:
        result = result + bias[:, None, None, None]
    return result.transpose(0, 1)


def _padded(input: Tensor, layer: nn.Conv1d | nn.Conv2d) -> Tensor:
    """Pad as the layer specifies; the last dim first, in the order of `pad`."""
    amounts: list[int] = []
    for dim in reversed(range(len(layer.kernel_size))):
        if layer.padding == "same":
            total = layer.dilation[dim] * (layer.kernel_size[dim] - 1)
            amounts += [total // 2, total - total // 2]
        else:
            amounts += [0, 0] if layer.padding == "valid" else [cast(int, layer.padding[dim])] * 2
    if not any(amounts):
        return input
    return pad(input, amounts, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


class StackedBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d`, see `normalise`."""

    def forward(self, input: Tensor) -> Tensor:
        """See `normalise`."""
        return normalise(self, input)


class StackedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, see `normalise`."""

    def forward(self, input: Tensor) -> Tensor:
        """See `normalise`."""
        return normalise(self, input)


class StackedBatchNorm3d(nn.BatchNorm3d):
    """`nn.BatchNorm3d`, see `normalise`."""

    def forward(self, input: Tensor) -> Tensor:
        """See `normalise`."""
        return normalise(self, input)


def normalise(layer: BatchNorm, input: Tensor) -> Tensor:
    """Normalise [b, channels, ...] over all dims but 1, and update the layer's running statistics where it has any.

    In evaluation mode the running statistics, if any, are used instead of the input's. Raises `ValueError`, as torch
    does, if there is only one value per channel to compute them from.
    """
    shape = (1, -1, *(1,) * (input.dim() - 2))
    wide = input.float() if input.dtype == torch.bfloat16 else input  # statistics are never rounded to 8 bits
    if not layer.training and layer.running_mean is not None and layer.running_var is not None:
        centred, variance = wide - layer.running_mean.view(shape), layer.running_var
    else:
        centred, variance = _centred(layer, wide, shape)
    result = centred * (1 / torch.sqrt(variance + layer.eps)).view(shape)
    result = result * layer.weight.view(shape) + layer.bias.view(shape) if layer.affine else result
    return result.to(input.dtype)


def _centred(layer: BatchNorm, input: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the input minus its means, and its variances [channels]; record both in the layer."""
    count = input.numel() // input.shape[1]
    if count == 1:
        raise ValueError(f"one value per channel cannot be normalised: the input's shape is {list(input.shape)}")
    dims = [0, *range(2, input.dim())]
    mean = input.mean(dims)
    centred = input - mean.view(shape)
    variance = (centred * centred).mean(dims)
    if layer.running_mean is not None and layer.running_var is not None and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        share = 1 / layer.num_batches_tracked.to(mean.dtype) if layer.momentum is None else layer.momentum
        _move(layer.running_mean, mean.detach(), share)
        _move(layer.running_var, variance.detach() * (count / (count - 1)), share)
    return centred, variance


def _move(running: Tensor, found: Tensor, share: Tensor | float) -> None:
    running.mul_(1 - share).add_(found * share)


_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: StackedConv1d,
    nn.Conv2d: StackedConv2d,
    nn.BatchNorm1d: StackedBatchNorm1d,
    nn.BatchNorm2d: StackedBatchNorm2d,
    nn.BatchNorm3d: StackedBatchNorm3d,
}


def install(model: nn.Module) -> None:
    """Turn the layers of `model` into their stackable forms, in place."""
    for part in model.modules():
        part.__class__ = _REPLACEMENTS.get(type(part), part.__class__)
