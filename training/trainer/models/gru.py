"""Gated recurrent units on windows.

The layers read the window in time order; the last state and the mean over the states give the logit.

Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation,
EMNLP 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training.trainer.models import networks


class Gru(nn.Module):
    """Recurrent layers, two summaries, one logit."""

    def __init__(self, channels: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        # One module a layer, because the dropout that cuDNN puts between layers keeps a state no checkpoint can hold.
        self.layers = nn.ModuleList(
            nn.GRU(hidden if index else channels, hidden, batch_first=True) for index in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * hidden, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Map (n, n_steps, n_channels) to (n,) logits."""
        states = windows
        for layer in self.layers:
            states = self.dropout(layer(states)[0])  # (n, n_steps, hidden)
        summary = torch.cat([states[:, -1], states.mean(dim=1)], dim=1)  # (n, 2 * hidden)
        logit: Tensor = self.out(summary)  # (n, 1)
        return logit.squeeze(1)


def build(channels: int, _: int, hyper: Mapping[str, Any]) -> nn.Module:
    """Make the network for a number of channels; any number of steps fits."""
    return Gru(channels, hyper["hidden"], hyper["layers"], hyper["dropout"])


fit, load = partial(networks.fit, build), partial(networks.load, build)
