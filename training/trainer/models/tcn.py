"""Temporal convolutional network on windows.

Residual blocks of two causal convolutions; each block doubles the dilation, so the last step of the last block sees
1 + 2 * (kernel - 1) * (2^layers - 1) steps: 13 with the defaults. No step sees a later one.

Source: Bai, Kolter and Koltun, An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
Modeling, arXiv 1803.01271, 2018 (without their weight normalisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training.trainer.models import networks


class Block(nn.Module):
    """Two causal dilated convolutions beside a short cut."""

    def __init__(self, channels: int, hidden: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.past = (kernel - 1) * dilation
        self.first = nn.Conv1d(channels, hidden, kernel, dilation=dilation)
        self.second = nn.Conv1d(hidden, hidden, kernel, dilation=dilation)
        self.short = nn.Conv1d(channels, hidden, 1) if channels != hidden else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor) -> Tensor:
        """Map (n, n_channels, n_steps) to (n, hidden, n_steps)."""
        out = state
        for convolution in (self.first, self.second):
            out = nn.functional.pad(out, (self.past, 0))  # (n, ., past + n_steps): zeros before the window
            out = self.dropout(torch.relu(convolution(out)))  # (n, hidden, n_steps)
        return torch.relu(out + self.short(state))


class Tcn(nn.Module):
    """Residual blocks, three summaries, one logit."""

    def __init__(self, channels: int, hidden: int, layers: int, kernel: int, dropout: float) -> None:
        super().__init__()
        sizes = [channels] + [hidden] * layers
        self.blocks = nn.Sequential(
            *(Block(sizes[index], hidden, kernel, 2**index, dropout) for index in range(layers))
        )
        self.out = nn.Linear(3 * hidden, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Map (n, n_steps, n_channels) to (n,) logits."""
        states = self.blocks(windows.transpose(1, 2))  # (n, hidden, n_steps)
        summary = torch.cat([states[:, :, -1], states.mean(dim=2), states.amax(dim=2)], dim=1)  # (n, 3 * hidden)
        logit: Tensor = self.out(summary)  # (n, 1)
        return logit.squeeze(1)


def build(channels: int, _: int, hyper: Mapping[str, Any]) -> nn.Module:
    """Make the network for a number of channels; any number of steps fits."""
    return Tcn(channels, hyper["hidden"], hyper["layers"], hyper["kernel"], hyper["dropout"])


fit, load = partial(networks.fit, build), partial(networks.load, build)
