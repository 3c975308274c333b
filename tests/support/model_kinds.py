"""Models of every kind that a stack runs as one program, with odd sizes, and a task for each."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from tuner.workloads import Task

CLASSES = 5
IMAGE, TOKENS, VECTOR = "image", "tokens", "vector"


class Attention(nn.Module):
    """Token and position embeddings, one causal attention layer with LayerNorm, a head on the last token."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(11, 6), nn.Embedding(9, 6)
        self.norm, self.qkv, self.head = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, CLASSES)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        b, n = tokens.shape
        x = self.drop(self.token(tokens) + self.position.weight)
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, 2, 3).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        y = x + self.drop(mixed.transpose(1, 2).reshape(b, n, 6))
        return self.head(y[:, -1])  # type: ignore[no-any-return]


class TransformerLayer(nn.Module):
    """Torch's own layer, with its own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(11, 6)
        self.layer = nn.TransformerEncoderLayer(6, 2, 10, dropout=0.0, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.token(tokens)).mean(1))  # type: ignore[no-any-return]


class Remembering(nn.Module):
    """A buffer that is assigned anew, and one that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, CLASSES)
        self.register_buffer("centre", torch.zeros(7))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.detach().mean(0)
            self.calls += 1
        return self.linear(x - self.centre)  # type: ignore[no-any-return]


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    model[0].requires_grad_(False)
    return model


KINDS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "batch norm": (VECTOR, lambda: nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES))),
    "running mean of all": (
        VECTOR,
        lambda: nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6, momentum=None, affine=False), nn.Linear(6, CLASSES)),
    ),
    "no running statistics": (
        VECTOR,
        lambda: nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, CLASSES)),
    ),
    "layer norm": (VECTOR, lambda: nn.Sequential(nn.Linear(7, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, CLASSES))),
    "frozen": (VECTOR, frozen),
    "own buffers": (VECTOR, Remembering),
    "convolutions": (
        IMAGE,
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(5, 6, 3, stride=2),
            nn.Flatten(),
            nn.Linear(36, CLASSES),
        ),
    ),
    "dilated convolutions": (
        IMAGE,
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, (3, 2), stride=(2, 1), dilation=(1, 2), bias=False),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        ),
    ),
    "grouped convolutions": (
        IMAGE,
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding="same", groups=3, padding_mode="circular"),
            nn.Tanh(),
            nn.Conv2d(6, 4, 1, groups=2, stride=2),
            nn.BatchNorm2d(4),
            nn.Flatten(2),
            nn.Conv1d(4, 3, 4, padding=1),
            nn.AdaptiveAvgPool1d(3),
            nn.Flatten(),
            nn.Linear(9, CLASSES),
        ),
    ),
    "attention": (TOKENS, Attention),
    "transformer layer": (TOKENS, TransformerLayer),
}


def task_of(kind: str) -> Task:
    """97 examples: no multiple of any batch."""
    shape, model = KINDS[kind]
    return task_for(shape, model)


def task_for(shape: str, model: Callable[[], nn.Module]) -> Task:
    generator = torch.Generator().manual_seed(2)
    x = {
        VECTOR: torch.randn(97, 7, generator=generator),
        IMAGE: torch.randn(97, 3, 6, 7, generator=generator),
        TOKENS: torch.randint(0, 11, (97, 9), generator=generator),
    }[shape]
    y = torch.randint(0, CLASSES, (97,), generator=generator)
    return Task(model, cross_entropy, (x, y), (x[:20], y[:20]))
