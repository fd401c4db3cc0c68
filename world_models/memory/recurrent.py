"""A recurrent memory, ConvLSTM (Shi et al. 2015): what else a world can remember by, and what the bank is held against.

One state of fixed size takes in every frame and the motion that led to it. It has no poses and no frames to look up:
whatever must be found again has to survive all updates in between.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..actions import MAGNITUDES


class ConvLSTM(nn.Module):
    """One convolutional LSTM cell over latents.

    Args:
        channels: C of the latents.
        width: channels of its state.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.look = nn.Conv2d(channels + width, 4 * width, 3, padding=1)
        self.motion = nn.Linear(MAGNITUDES, 4 * width)
        with torch.no_grad():
            # Gates in the order in, forget, out, new: it begins by forgetting little.
            self.look.bias[width : 2 * width] = 1.0  # type: ignore[index]

    def start(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The state (hidden, cell), each (B, width, h, w), that has seen nothing; for latents (B, C, h, w)."""
        nothing = latents.new_zeros(len(latents), self.width, *latents.shape[-2:])
        return nothing, nothing

    def forward(
        self, state: tuple[Tensor, Tensor], latents: Tensor, magnitudes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state after one more frame.

        Args:
            state: hidden and cell, each (B, width, h, w).
            latents: (B, C, h, w) of the frame.
            magnitudes: (B, 13) motion that led to it.
        """
        hidden, cell = state
        gates = self.look(torch.cat([latents, hidden], 1)) + self.motion(magnitudes)[..., None, None]
        take, keep, show, new = gates.chunk(4, 1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        return show.sigmoid() * cell.tanh(), cell
