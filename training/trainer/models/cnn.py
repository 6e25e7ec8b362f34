"""1-D convolutional network on windows.

Convolutions along time with ReLU and dropout; the window is then summed up by the last step, the mean and the maximum
of every channel, so that both a slow shift and a short burst are seen.

Source: Wang, Yan and Oates, Time Series Classification from Scratch with Deep Neural Networks, IJCNN 2017 (their fully
convolutional network, here without batch normalisation, whose statistics do not carry over to unseen hosts).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training.trainer.models import networks


class Cnn(nn.Module):
    """Convolutions, three summaries, one logit."""

    def __init__(self, channels: int, hidden: int, layers: int, kernel: int, dropout: float) -> None:
        super().__init__()
        sizes = [channels] + [hidden] * layers
        self.convolutions = nn.ModuleList(
            nn.Conv1d(sizes[index], hidden, kernel, padding="same") for index in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(3 * hidden, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Map (n, n_steps, n_channels) to (n,) logits."""
        state = windows.transpose(1, 2)  # (n, n_channels, n_steps)
        for convolution in self.convolutions:
            state = self.dropout(torch.relu(convolution(state)))  # (n, hidden, n_steps)
        summary = torch.cat([state[:, :, -1], state.mean(dim=2), state.amax(dim=2)], dim=1)  # (n, 3 * hidden)
        logit: Tensor = self.out(summary)  # (n, 1)
        return logit.squeeze(1)


def build(channels: int, _: int, hyper: Mapping[str, Any]) -> nn.Module:
    """Make the network for a number of channels; any number of steps fits."""
    return Cnn(channels, hyper["hidden"], hyper["layers"], hyper["kernel"], hyper["dropout"])


fit, load = partial(networks.fit, build), partial(networks.load, build)
