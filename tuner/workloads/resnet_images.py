"""`resnet-images`: MNIST, Fashion-MNIST or CIFAR-10 from a directory on the worker, and a small residual network.

Reference: He et al. 2015, "Deep residual learning for image recognition", section 4.2, arXiv:1512.03385: three stages
of `blocks` residual blocks, the width doubling as the image halves; 6 blocks + 2 layers. Departure: where the width
changes, the shortcut is a 1 x 1 convolution with batch normalisation (their option B). No augmentation.
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from tuner.workloads.classification import accuracy
from tuner.workloads.image_files import CLASSES
from tuner.workloads.images import Standardise, images
from tuner.workloads.parameters import whole_number
from tuner.workloads.registry import workload
from tuner.workloads.task import Task


@workload("resnet-images")
def resnet_images(directory: str, blocks: int = 1, channels: int = 16, precision: str = "float32") -> Task:
    """MNIST, Fashion-MNIST (IDX files) or CIFAR-10 (binary version) from `directory`, a residual network."""
    whole_number("blocks", blocks, 1, 20)
    whole_number("channels", channels, 1, 512)
    data = images(directory)
    pixels = data.train[0]
    statistics = Standardise.statistics(pixels)
    return Task(
        model=lambda: nn.Sequential(Standardise(*statistics), *_residual_network(pixels.shape[1], blocks, channels)),
        loss=cross_entropy,
        train=data.train,
        valid=data.valid,
        metrics={"accuracy": accuracy},
        precision=precision,
    )


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them: [b, inputs, h, w] to [b, outputs, h / stride, w / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        projection = (nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if same else nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output to the shortcut's."""
        return relu(self.body(x) + self.shortcut(x))


def _residual_network(inputs: int, blocks: int, channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]
    width = channels
    for stage in range(3):
        for block in range(blocks):
            outputs = channels << stage
            layers.append(Block(width, outputs, stride=2 if stage and not block else 1))
            width = outputs
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]
