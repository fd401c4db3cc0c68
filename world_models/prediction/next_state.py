"""The cheap predictor: the next state from a state, an action and what is remembered of where it leads, in one pass and
without drawing anything.

s'_{t+1} = P(s_t, a_t, m_t), with what the step leads to and pays, and, of any state, the latents of what is seen in it.
Differentiable in the states, in the motion that is asked for and in the pose that is arrived at.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..actions import MAGNITUDES
from ..perception.state_encoder import Reader, Sight, StateConfig, Surroundings, normed, state_grid
from .heads import ENDLESS
from .ways import WAYS_OUT, likelier, two_ways


@dataclass(frozen=True)
class NextState:
    """One step in state space, of B worlds.

    Attributes:
        state: (B, D), the mean of the predictors', normed.
        members: (B, E, D), what each of them says.
        reward: (B,).
        goes_on: (B,) logit of the episode going on.
    """

    state: Tensor
    members: Tensor
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
        self.rows, self.columns, self.side = state_grid(grid)
        tokens, width, hidden = self.rows * self.columns, config.width, config.hidden
        asked = MAGNITUDES + 5
        self.motion = nn.Sequential(nn.Linear(tokens * width + asked, hidden), nn.SiLU(), nn.Linear(hidden, WAYS_OUT))
        self.place = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.condition = nn.Sequential(nn.Linear(asked, width), nn.SiLU(), nn.Linear(width, width))
        self.reader = Reader(config)
        self.next = nn.Linear(width, config.members * width)
        self.outcome = nn.Sequential(nn.Linear(2 * tokens * width + asked, hidden), nn.SiLU(), nn.Linear(hidden, 2))
        self.show = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, channels * self.side**2)
        )
        for last in (self.motion[-1], self.outcome[-1]):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            if last is self.outcome[-1]:
                nn.init.constant_(last.bias.data[1], ENDLESS)

    def ways(self, state: Tensor, magnitudes: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """The two ways that a step may go, as `two_ways` tells them.

        Args:
            state: (B, D).
            magnitudes: (B, 13) of the motion asked for.
            deviation: (B, 5) the last motion minus what was asked for then, in steps and turns.
        """
        return two_ways(self.motion(torch.cat([state, magnitudes, deviation], 1)), magnitudes, deviation)

    def correct(self, state: Tensor, magnitudes: Tensor, deviation: Tensor) -> Tensor:
        """(B, 5) motion made minus motion asked for, in steps and turns: the likelier of `ways`; arguments as there."""
        return likelier(*self.ways(state, magnitudes, deviation))

    def forward(
        self, sight: Sight, state: Tensor, left: Tensor, magnitudes: Tensor, deviation: Tensor, recalled: Surroundings
    ) -> NextState:
        """One step.

        Args:
            sight: makes tokens of frames.
            state: (B, D).
            left: (B, 5) canonical pose that the step begins at.
            magnitudes: (B, 13) of the motion made.
            deviation: (B, 5) that motion minus what was asked for, in steps and turns.
            recalled: what is remembered of where the step leads, which is its ``pose``.
        """
        made = torch.cat([magnitudes, deviation], 1)
        tokens = state.unflatten(1, (self.rows * self.columns, -1))
        remembered = sight.look(recalled.latents.flatten(0, 1)).unflatten(0, recalled.age.shape)
        seen = torch.cat([tokens.unsqueeze(1), remembered], 1)
        poses, age = torch.cat([left.unsqueeze(1), recalled.poses], 1), F.pad(recalled.age, (1, 0), value=1)
        frames = sight.lay_out(seen, poses, age, recalled.pose)
        x = self.reader(tokens + self.place, frames, F.pad(recalled.valid, (1, 0), value=True), self.condition(made))
        members = normed(x.unsqueeze(1) + self.next(normed(x)).unflatten(-1, (self.config.members, -1)).transpose(1, 2))
        after = normed(members.mean(1)).flatten(1)
        reward, goes_on = self.outcome(torch.cat([state, after, made], 1)).unbind(1)
        return NextState(after, members.flatten(2), reward, goes_on)

    def decode(self, state: Tensor) -> Tensor:
        """Latents (B, C, h, w) of what is seen in states (B, D): D⁻¹ of the essay, up to the frame decoder."""
        patches = self.show(state.unflatten(1, (self.rows, self.columns, -1)))
        # (B, rows, columns, C, side, side) to (B, C, rows, side, columns, side)
        apart = patches.unflatten(-1, (-1, self.side, self.side)).permute(0, 3, 1, 4, 2, 5)
        latents: Tensor = apart.flatten(4).flatten(2, 3)[..., : self.grid[0], : self.grid[1]]
        return latents
