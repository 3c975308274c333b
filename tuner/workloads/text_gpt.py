"""`text-gpt`: a byte-level language model on the Python standard library's own source files.

Reference: Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2): learned positions,
normalisation before each part, GELU, and weights of standard deviation 0.02, divided by sqrt(2 layers) where a part
adds to the residual stream. Departures: bytes instead of word pieces; the head is not tied to the embedding.

An example is a window of `context` bytes and the bytes that follow each; windows do not overlap. The batch size counts
windows. The loss is the mean cross-entropy per byte in nats; `valid_bits_per_byte` is the same in bits.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from tuner.errors import Fault, InvalidInput
from tuner.workloads.parameters import number, whole_number
from tuner.workloads.python_sources import python_sources
from tuner.workloads.registry import workload
from tuner.workloads.task import Data, Task
from tuner.workloads.value import Value

BYTES = 256
TRAIN_BYTES, VALID_BYTES = 1 << 21, 1 << 15
"""At most this many bytes of each text are used."""


@workload("text-gpt")
def text_gpt(
    layers: int = 2,
    heads: int = 4,
    width: int = 64,
    context: int = 64,
    dropout: Value = 0.0,
    precision: str = "float32",
) -> Task:
    """A byte-level GPT on the Python standard library's source files."""
    whole_number("layers", layers, 1, 48)
    whole_number("heads", heads, 1, 64)
    whole_number("width", width, 1, 4096)
    whole_number("context", context, 1, 4096)
    number("dropout", dropout, 0, 1)
    if width % heads:
        raise InvalidInput([Fault("workload.params.width", f"is {width}; allowed are multiples of heads, {heads}")])
    sources = python_sources()
    return Task(
        model=lambda: GPT(layers, heads, width, context, dropout),
        loss=per_byte,
        train=windows(sources.train[:TRAIN_BYTES], context),
        valid=windows(sources.valid[:VALID_BYTES], context),
        metrics={"bits_per_byte": lambda output, target: per_byte(output, target) / math.log(2)},
        digest=sources.digest,
        precision=precision,
    )


def per_byte(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of outputs [N, context, 256] at targets [N, context]."""
    return cross_entropy(output.flatten(0, 1), target.flatten())


def windows(text: bytes, context: int) -> Data:
    """Cut a text into windows [n, context] and the same windows shifted by one byte, int64."""
    values = torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))
    count = (len(values) - 1) // context
    return values[: count * context].view(count, context), values[1 : count * context + 1].view(count, context)


class GPT(nn.Module):
    """Map bytes [b, context] to logits [b, context, 256]."""

    def __init__(self, layers: int, heads: int, width: int, context: int, dropout: float) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(BYTES, width), nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(heads, width, dropout) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, BYTES, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * layers) if name.endswith("out.weight") else 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict the byte after each position."""
        x = self.drop(self.token(tokens) + self.position.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


class Block(nn.Module):
    """Causal attention, then two layers with GELU; each adds to [b, n, width]."""

    def __init__(self, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.qkv, self.attention_out = _norm_and_pair(width, 3 * width, width)
        self.mlp_norm, self.mlp_in, self.mlp_out = _norm_and_pair(width, 4 * width, 4 * width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Add attention and feed-forward to the residual stream."""
        b, n, width = x.shape
        split = self.qkv(self.attention_norm(x)).view(b, n, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.drop(self.attention_out(mixed.transpose(1, 2).reshape(b, n, width)))
        added: Tensor = x + self.drop(self.mlp_out(gelu(self.mlp_in(self.mlp_norm(x)))))
        return added


def _norm_and_pair(width: int, first: int, second: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.LayerNorm(width), nn.Linear(width, first), nn.Linear(second, width)
