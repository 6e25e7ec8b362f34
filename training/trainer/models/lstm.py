"""Long short-term memory on windows.

The layers read the window in time order; the last state and the mean over the states give the logit.

Source: Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997; Gers, Schmidhuber and
Cummins, Learning to Forget, Neural Computation 12(10), 2000 (the forget gate, whose bias begins at 1 here:
Jozefowicz, Zaremba and Sutskever, An Empirical Exploration of Recurrent Network Architectures, ICML 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.trainer.models import networks


class Lstm(nn.Module):
    """Recurrent layers, two summaries, one logit."""

    def __init__(self, channels: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        # One module a layer, because the dropout that cuDNN puts between layers keeps a state no checkpoint can hold.
        self.layers = nn.ModuleList(
            nn.LSTM(hidden if index else channels, hidden, batch_first=True) for index in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * hidden, 1)
        with torch.no_grad():
            for layer in self.layers:
                cast(Tensor, layer.bias_ih_l0)[hidden : 2 * hidden].fill_(
                    1.0
                )  # gates stand in the order input, forget, cell, output

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
    return Lstm(channels, hyper["hidden"], hyper["layers"], hyper["dropout"])


fit, load = partial(networks.fit, build), partial(networks.load, build)
