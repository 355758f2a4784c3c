"""The toy model in PyTorch: a small Llama-shaped decoder, for training only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network; `context` is in tokens."""

    vocab: int
    width: int = 256
    layers: int = 6
    heads: int = 4
    hidden: int = 704
    context: int = 1024
    dropout: float = 0.2
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5


def rotary_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables, each (context, head width), halves repeated (Llama's layout)."""
    half = shape.width // shape.heads // 2
    inverse = shape.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = torch.outer(torch.arange(shape.context, dtype=torch.float32), inverse).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x (batch, heads, time, head width)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Block(nn.Module):
    """Pre-norm attention and gated feed-forward, both residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.dropout = nn.Dropout(shape.dropout)
        self.attention_norm = nn.RMSNorm(width, eps=shape.norm_eps)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=shape.norm_eps)
        self.gate = nn.Linear(width, shape.hidden, bias=False)
        self.up = nn.Linear(width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Maps (batch, time, width) to the same shape."""
        batch, time, width = x.shape
        split = (batch, time, self.heads, width // self.heads)
        h = self.attention_norm(x)
        q = rotate(self.query(h).view(split).transpose(1, 2), cos, sin)
        k = rotate(self.key(h).view(split).transpose(1, 2), cos, sin)
        v = self.value(h).view(split).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, time, width)))
        h = self.ffn_norm(x)
        fed: Tensor = self.down(F.silu(self.gate(h)) * self.up(h))
        dropped: Tensor = self.dropout(fed)
        return x + dropped


class ToyModel(nn.Module):
    """Token ids (batch, time) to logits (batch, time, vocab); input and output weights tied."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        cos, sin = rotary_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, parameter in self.blocks.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                scale = (2 * shape.layers) ** -0.5 if residual else 1.0
                nn.init.normal_(parameter, std=scale * shape.width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits for the token after each position."""
        time = ids.shape[1]
        cos, sin = self.get_buffer("cos")[:time], self.get_buffer("sin")[:time]
        x = self.dropout(self.embedding(ids))
        for block in self.blocks:
            x = block(x, cos, sin)
        logits: Tensor = F.linear(self.norm(x), self.embedding.weight)
        return logits
