"""Transformer encoder on windows.

Rows become vectors, sinusoids say where in the window they stand, and pre-norm encoder layers let every row look at
every other. The last row's vector, the mean and the maximum over rows give the logit. Attention is written out, so that
it is the same arithmetic on CPU and CUDA and the same every time.

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017 (encoder, sinusoidal positions); Xiong et al., On Layer
Normalization in the Transformer Architecture, ICML 2020 (pre-norm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training.trainer.models import networks


def sinusoids(steps: int, width: int) -> Tensor:
    """Return (steps, width) float32: sines in even columns, cosines in odd ones, of wavelengths from 2 pi to 20,000 pi.

    Source: Vaswani et al. 2017, section 3.5.
    """
    # On the CPU also where a network is planned on "meta", for which torch would load 800 modules in a second.
    position = torch.arange(steps, dtype=torch.float32, device="cpu")[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32, device="cpu") * (-math.log(10000.0) / width))
    out = torch.zeros(steps, width, device="cpu")
    out[:, 0::2] = torch.sin(position * rate)
    out[:, 1::2] = torch.cos(position * rate)[:, : width // 2]
    return out


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each behind a normalisation and beside a short cut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor) -> Tensor:
        """Map (n, n_steps, width) to the same shape."""
        state = state + self.dropout(self.joined(self._attention(self.before_attention(state))))
        hidden = torch.relu(self.wide(self.before_perceptron(state)))  # (n, n_steps, 2 * width)
        out: Tensor = state + self.dropout(self.narrow(hidden))
        return out

    def _attention(self, state: Tensor) -> Tensor:
        """Map (n, n_steps, width) to the same shape: each row a mean of all rows, weighted by likeness."""
        count, steps, width = state.shape
        split = self.projections(state).view(count, steps, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # 3 times (n, heads, n_steps, width / heads)
        likeness = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)  # (n, heads, n_steps, n_steps)
        mixed = likeness.softmax(dim=3) @ value  # (n, heads, n_steps, width / heads)
        joined: Tensor = mixed.transpose(1, 2).reshape(count, steps, width)
        return joined


class Transformer(nn.Module):
    """Rows to vectors, encoder layers, three summaries, one logit."""

    positions: Tensor

    def __init__(self, channels: int, steps: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.rows = nn.Linear(channels, width)
        self.register_buffer("positions", sinusoids(steps, width), persistent=False)
        self.layers = nn.Sequential(*(Layer(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(3 * width, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Map (n, n_steps, n_channels) to (n,) logits."""
        state = self.rows(windows) + self.positions  # (n, n_steps, width)
        state = self.norm(self.layers(state))  # (n, n_steps, width)
        summary = torch.cat([state[:, -1], state.mean(dim=1), state.amax(dim=1)], dim=1)  # (n, 3 * width)
        logit: Tensor = self.out(summary)  # (n, 1)
        return logit.squeeze(1)


def build(channels: int, steps: int, hyper: Mapping[str, Any]) -> nn.Module:
    """Make the network for a number of channels and steps."""
    width = hyper["heads"] * hyper["head_width"]
    return Transformer(channels, steps, width, hyper["layers"], hyper["heads"], hyper["dropout"])


fit, load = partial(networks.fit, build), partial(networks.load, build)
