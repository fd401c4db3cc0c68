"""The cheap predictor: the next state from a state and an action, without drawing anything.

s'_{t+1} = P(s_t, a_t), with what the step leads to and pays, and, of any state, the latents of what is seen in it.
Differentiable in the states and in the motion that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..actions import MAGNITUDES
from ..perception.state_encoder import StateConfig, normed


@dataclass(frozen=True)
class NextState:
    """One step in state space, of B worlds.

    Attributes:
        state: (B, D), the mean of the predictors', normed.
        members: (B, E, D), what each of them says.
        correction: (B, 5) motion made minus motion asked for, in steps and turns.
        reward: (B,).
        goes_on: (B,) logit of the episode going on.
    """

    state: Tensor
    members: Tensor
    correction: Tensor
    reward: Tensor
    goes_on: Tensor

    @property
    def disagreement(self) -> Tensor:
        """(B,) how far the predictors are apart: root of their variance over all numbers of the state."""
        return (self.members - self.members.mean(1, keepdim=True)).square().mean((1, 2)).sqrt()


class NextStateHead(nn.Module):
    """Predicts in state space, and shows states.

    Args:
        config: sizes.
        channels: C of latents.
        grid: rows and columns of latents.
    """

    def __init__(self, config: StateConfig, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        d, hidden, inputs = config.size, config.hidden, MAGNITUDES + 5
        self.join, self.join_norm = nn.Linear(d + inputs, hidden), nn.LayerNorm(hidden)
        self.hidden, self.hidden_norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.next = nn.Linear(hidden, config.members * d)
        self.motion = nn.Linear(hidden, 6)
        self.weigh, self.outcome = nn.Linear(2 * d + inputs, hidden // 2), nn.Linear(hidden // 2, 2)
        side = max(1, min(grid) // 3)
        self.rows, self.columns = -(-grid[0] // side), -(-grid[1] // side)
        self.spread = nn.Linear(d, 64 * self.rows * self.columns)
        self.show = nn.ConvTranspose2d(64, channels, side, stride=side)
        for last in (self.motion, self.outcome):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, state: Tensor, magnitudes: Tensor, deviation: Tensor) -> NextState:
        """One step.

        Args:
            state: (B, D).
            magnitudes: (B, 13) of the motion asked for.
            deviation: (B, 5) the last motion minus what was asked for then, in steps and turns.
        """
        asked = torch.cat([magnitudes, deviation], 1)
        x = F.silu(self.join_norm(self.join(torch.cat([state, asked], 1))))
        x = F.silu(self.hidden_norm(self.hidden(x)))
        members = normed(self.next(x).unflatten(1, (self.config.members, -1)) + state.unsqueeze(1))
        after = normed(members.mean(1))
        motion = self.motion(x)
        reward, goes_on = self.outcome(F.silu(self.weigh(torch.cat([state, after, asked], 1)))).unbind(1)
        return NextState(after, members, torch.addcmul(motion[:, :5], motion[:, 5:], deviation), reward, goes_on)

    def decode(self, state: Tensor) -> Tensor:
        """Latents (B, C, h, w) of what is seen in states (B, D): D⁻¹ of the essay, up to the frame decoder."""
        small = F.silu(self.spread(state)).unflatten(1, (64, self.rows, self.columns))
        latents: Tensor = self.show(small)[..., : self.grid[0], : self.grid[1]]
        return latents
