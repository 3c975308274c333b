"""A user's own workloads in plain code: a residual network with batch normalisation, a perceptron. Made-up data."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

import tuner


class Block(nn.Module):
    """Two convolutions with batch normalisation, and a way round them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, inputs, h, w] to [b, outputs, h / stride, w / stride]."""
        inner = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(inner)) + self.short(x))


class ResNet(nn.Module):
    """Three blocks, a mean over the image, a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        sizes = (channels, channels, 2 * channels, 4 * channels)
        self.blocks = nn.Sequential(*(Block(sizes[i], sizes[i + 1], 1 + (i > 0)) for i in range(3)))
        self.head = nn.Linear(sizes[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, 3, h, w] to logits [b, 10]."""
        return self.head(self.blocks(relu(self.norm(self.stem(x)))).mean((2, 3)))


def labelled(inputs: Tensor, teacher: nn.Module) -> tuple[Tensor, Tensor]:
    """Label made-up inputs by a network with random weights."""
    with torch.no_grad():
        return inputs, teacher(inputs).argmax(1)


@tuner.workload("own-resnet")
def own_resnet(channels: int = 16) -> tuner.Task:
    """A small residual network on made-up images."""
    torch.manual_seed(0)
    images = torch.randn(1200, 3, 16, 16)
    inputs, labels = labelled(images, nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 10)))
    train, valid = (inputs[:1000], labels[:1000]), (inputs[1000:], labels[1000:])
    return tuner.Task(lambda: ResNet(channels), cross_entropy, train, valid)


@tuner.workload("own-mlp")
def own_mlp(hidden: int = 128) -> tuner.Task:
    """A perceptron with two hidden layers on made-up rows of a table."""
    torch.manual_seed(0)
    inputs, labels = labelled(torch.randn(5000, 40), nn.Sequential(nn.Linear(40, 64), nn.Tanh(), nn.Linear(64, 4)))
    train, valid = (inputs[:4000], labels[:4000]), (inputs[4000:], labels[4000:])

    def model() -> nn.Module:
        layers = [nn.Linear(40, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 4)]
        return nn.Sequential(*layers)

    return tuner.Task(model, cross_entropy, train, valid)
