"""The heads around the video model: where the action leads, and what it is worth."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..actions import KEY_CLASSES, MAGNITUDES
from .ways import WAYS_OUT, likelier, two_ways

ENDLESS = 10.0
"""Logit of going on in a world that has learned nothing of ends: hardly any episode ends in it."""


class PoseHead(nn.Module):
    """Pose before picture: the motion an action really makes, seen from the last frame and from what went amiss before.

    With two ways it says where each leads and how likely they are, see `two_ways`. With one it predicts a correction to
    the nominal motion (walls stop a walker), and how much of the last motion's deviation goes on (who slid along a wall
    slides on), and is trained with an absolute loss, whose optimum is the median: stopped *or* not, rather than
    half-way through the wall. All of it is zero at the start of training.

    Args:
        channels, grid: C and (h, w) of latents.
        ways: 1 or 2.
        width: of the hidden layers.
    """

    def __init__(self, channels: int, grid: tuple[int, int], ways: int = 2, width: int = 192) -> None:
        super().__init__()
        self.look = nn.Conv2d(channels, 48, 3, padding=1)
        self.reduce = nn.Conv2d(48, 16, 1)
        self.keys = nn.Embedding(KEY_CLASSES, width)
        self.join = nn.Linear(16 * grid[0] * grid[1] + MAGNITUDES + 5, width)
        self.hidden = nn.Linear(width, width)
        self.again = nn.Linear(width, width)
        self.out = nn.Linear(width, 6 if ways == 1 else WAYS_OUT)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, last: Tensor, keys: Tensor, magnitudes: Tensor, deviation: Tensor) -> Tensor:
        """Correction (B, 5), of two ways the likelier's; arguments as `ways` has them."""
        motions, chances = self.ways(last, keys, magnitudes, deviation)
        return motions[:, 0] if motions.shape[1] == 1 else likelier(motions, chances)

    def ways(self, last: Tensor, keys: Tensor, magnitudes: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Corrections (B, W, 5), in mean steps and turns, and the logarithms (B, W) of how likely they are.

        Args:
            last: (B, C, h, w) latents.
            keys: (B,) and …
            magnitudes: (B, 13) asked for.
            deviation: (B, 5) of the last motion from what was asked then, in mean steps and turns.
        """
        seen = F.silu(self.reduce(F.silu(self.look(last)))).flatten(1)
        x = F.silu(self.join(torch.cat([seen, magnitudes, deviation], 1)) + self.keys(keys))
        out = self.out(F.silu(self.again(F.silu(self.hidden(x)))))
        if self.out.out_features == WAYS_OUT:
            return two_ways(out, magnitudes, deviation)
        return torch.addcmul(out[:, :5], out[:, 5:], deviation).unsqueeze(1), out.new_zeros(len(out), 1)


class OutcomeHead(nn.Module):
    """Reward and continuation of a transition (z_t, a_t, z_{t+1}), as DIAMOND's separate reward/end network.

    Several members share the convolutions and have layers of their own behind them: an ensemble whose members, each
    trained on its own resample of the data, agree where the data decide.

    Args:
        channels, grid: C and (h, w) of latents.
        members: M; each of several is half as wide as a single one.
        width: of a single one.
    """

    def __init__(self, channels: int, grid: tuple[int, int], members: int = 1, width: int = 192) -> None:
        super().__init__()
        self.members = members
        each = width if members == 1 else width // 2
        self.look = nn.Conv2d(2 * channels, 64, 3, padding=1)
        self.again = nn.Conv2d(64, 32, 3, padding=1)
        self.join = nn.Linear(32 * grid[0] * grid[1] + MAGNITUDES, members * each)
        self.out = nn.Linear(each, 2 * members)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        nn.init.constant_(self.out.bias.data[1::2], ENDLESS)

    def forward(self, last: Tensor, latents: Tensor, magnitudes: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards (B, M) in units of the reward scale, and continue logits (B, M), of every member."""
        x = F.silu(self.look(torch.cat([last, latents], 1)))
        x = F.silu(self.again(x)).flatten(1)
        x = F.silu(self.join(torch.cat([x, magnitudes], 1))).unflatten(1, (self.members, 1, -1))
        weight, bias = self.out.weight.unflatten(0, (self.members, 2)), self.out.bias.unflatten(0, (self.members, 2))
        rewards, logits = ((x * weight).sum(-1) + bias).unbind(-1)
        return rewards, logits


class ErrorHead(nn.Module):
    """How wrong an imagined frame will turn out to be, from what it rests on; see `evidence`.

    What it foretells is the squared error of the latents in units of their variance within the walk, which maps of
    strong and of faint textures have in common: 1 is what the walk's mean frame would have. At the start of training
    it expects that of every frame. It sees no picture: given one, it learns the training maps' textures as well.

    Args:
        clues: numbers that `evidence` gives.
    """

    def __init__(self, clues: int, width: int = 64) -> None:
        super().__init__()
        self.join = nn.Linear(clues, width)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, clues: Tensor) -> Tensor:
        """Logarithm (B,) of the expected error of frames with ``clues`` (B, N)."""
        out: Tensor = self.out(F.silu(self.hidden(F.silu(self.join(clues))))).squeeze(1)
        return out
