"""An exact world with known dynamics, imagined (`ToyWorld`) and real (`ToyEnv`).

A square arena without inner walls. The picture of a pose is a bar code of it, from which the pose can be read
back. Both worlds share `ToyArena`, so a plan that is optimal in one is optimal in the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldloop.envs.contexts import Contexts
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.noise import normal
from worldloop.world_models.pose import POSE_DIM, motion_between, move
from worldloop.world_models.state import WorldState
from worldloop.world_models.world import ImaginedStep

STEP = 25.0
TURN = math.pi / 8
CODE_LEVELS = 2**16
LATENT_SHAPE = (4, 2, 2)

KEYS = ActionSpec(
    "discrete",
    ("noop", "forward", "back", "left", "right", "turn_left", "turn_right"),
    (
        (0, 0, 0, 0, 0),
        (STEP, 0, 0, 0, 0),
        (-STEP, 0, 0, 0, 0),
        (0, STEP, 0, 0, 0),
        (0, -STEP, 0, 0, 0),
        (0, 0, 0, TURN, 0),
        (0, 0, 0, -TURN, 0),
    ),
)
AXES = ActionSpec(
    "box", ("forward", "left", "turn"), ((STEP, 0, 0, 0, 0), (0, STEP, 0, 0, 0), (0, 0, 0, TURN, 0))
)


@dataclass(frozen=True)
class ToyArena:
    """Dynamics and pictures.

    Attributes:
        actions: what can be done; nominal motions are followed exactly.
        size: side of the arena; x and y lie in [0, size].
        goal: centre of the goal disc.
        goal_radius: its radius. Entering it gives reward 1 and ends the episode.
        frame_size: height and width of a picture, even numbers.
    """

    actions: ActionSpec = KEYS
    size: float = 400.0
    goal: tuple[float, float] = (300.0, 300.0)
    goal_radius: float = 30.0
    frame_size: tuple[int, int] = (36, 48)

    def arrive(self, pose: Tensor, actions: Tensor) -> Tensor:
        """Pose (B, 5) after actions (B, ...) from pose (B, 5): nominal motion, stopped by the walls."""
        arrived = move(pose, self.actions.nominal_motion(actions).to(torch.float64))
        return torch.cat([arrived[:, :2].clamp(0, self.size), arrived[:, 2:]], -1)

    def at_goal(self, pose: Tensor) -> Tensor:
        """(B,) bool: which poses (B, 5) lie in the goal disc."""
        return (pose[:, :2] - pose.new_tensor(self.goal)).norm(dim=-1) <= self.goal_radius

    def latents(self, pose: Tensor) -> Tensor:
        """(B, 4, 2, 2) float32: x, y, cosine and sine of the yaw in [0, 1], as multiples of 2^-16."""
        x, y, yaw = pose[:, 0] / self.size, pose[:, 1] / self.size, pose[:, 3]
        values = torch.stack([x, y, (yaw.cos() + 1) / 2, (yaw.sin() + 1) / 2], -1)
        code = (values * CODE_LEVELS).round().clamp(0, CODE_LEVELS - 1) / CODE_LEVELS
        return code.to(torch.float32).view(-1, 4, 1, 1).expand(-1, *LATENT_SHAPE).contiguous()

    def pose_of(self, latents: Tensor) -> Tensor:
        """(B, 5) float64: the pose that latents (B, 4, 2, 2) show, to about 0.01 units."""
        code = latents[:, :, 0, 0].to(torch.float64)
        yaw = torch.atan2(code[:, 3] * 2 - 1, code[:, 2] * 2 - 1)
        zero = torch.zeros_like(yaw)
        return torch.stack([code[:, 0] * self.size, code[:, 1] * self.size, zero, yaw, zero], -1)

    def picture(self, latents: Tensor) -> Tensor:
        """(B, H, W, 3) uint8: a tile per latent channel; red holds its high byte, blue its low byte."""
        code = (latents[:, :, 0, 0].to(torch.float64) * CODE_LEVELS).round().to(torch.int64)
        tile = torch.stack([code >> 8, torch.full_like(code, 64), code & 255], -1).to(torch.uint8)
        h, w = self.frame_size
        return tile.view(-1, 2, 2, 3).repeat_interleave(h // 2, 1).repeat_interleave(w // 2, 2)

    def read_picture(self, frames: Tensor) -> Tensor:
        """(B, 4, 2, 2): the inverse of `picture`."""
        h, w = self.frame_size
        tiles = frames[:, :: h // 2, :: w // 2].reshape(-1, 4, 3).to(torch.int64)
        code = (tiles[..., 0] << 8) + tiles[..., 2]
        return (code / CODE_LEVELS).to(torch.float32).view(-1, 4, 1, 1).expand(-1, *LATENT_SHAPE).contiguous()


class ToyWorld:
    """`World` with exact dynamics.

    Args:
        arena: dynamics and pictures.
        noise: standard deviation, in world units, of a displacement drawn from (seed, step).
        context: frames that a state remembers.
    """

    def __init__(self, arena: ToyArena | None = None, noise: float = 0.0, context: int = 4) -> None:
        self.arena = arena or ToyArena()
        self.noise = noise
        self.context = context
        self.actions = self.arena.actions
        self.frame_size = self.arena.frame_size
        self.imagined_batches: list[int] = []
        """Batch size of every call of `imagine`, for tests that count them."""

    retrieves = 0
    state_size = 4

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def start(self, batch_size: int, seeds: Any = None) -> WorldState:
        seeds = torch.arange(batch_size) if seeds is None else torch.as_tensor(seeds, dtype=torch.int64)
        return WorldState.empty(seeds, self.context, LATENT_SHAPE)

    def observe(self, state: WorldState, frames: Any, actions: Any, poses: Any) -> WorldState:
        frames, poses = torch.as_tensor(frames), torch.as_tensor(poses, dtype=torch.float64)
        b, t = poses.shape[:2]
        self.actions.check(actions, (b, t))
        for i in range(t):
            before = torch.where(state.valid[:, -1:], state.pose, poses[:, i])
            motion = motion_between(before, poses[:, i]).to(torch.float32)
            state = state.append(self.encode(frames[:, i]), poses[:, i], motion, torch.zeros_like(motion))
        return state

    def imagine(self, state: WorldState, actions: Any, pose: Any = None) -> tuple[WorldState, ImaginedStep]:
        checked = self.actions.check(actions, (state.batch_size,))
        self.imagined_batches.append(state.batch_size)
        uncertainty = torch.zeros(state.batch_size)
        if pose is None:
            arrived = self.arena.arrive(state.pose, checked)
            if self.noise:
                push = self.noise * normal(state.seeds, state.step, (2,)).to(torch.float64)
                arrived = torch.cat([(arrived[:, :2] + push).clamp(0, self.arena.size), arrived[:, 2:]], -1)
                uncertainty = push.norm(dim=-1).to(torch.float32)
        else:
            arrived = torch.as_tensor(pose, dtype=torch.float64)
        inside = self.arena.at_goal(arrived)
        step = ImaginedStep(
            latents=self.arena.latents(arrived),
            pose=arrived,
            reward=(inside & ~self.arena.at_goal(state.pose)).to(torch.float32),
            continues=(~inside).to(torch.float32),
            uncertainty=uncertainty,
            retrieved_times=torch.zeros(state.batch_size, 0, dtype=torch.int64),
            retrieved_poses=torch.zeros(state.batch_size, 0, POSE_DIM, dtype=torch.float64),
        )
        motion = motion_between(state.pose, arrived).to(torch.float32)
        return state.append(step.latents, arrived, motion, torch.zeros_like(motion)), step

    def render(self, latents: Tensor) -> Tensor:
        return self.arena.picture(latents)

    def remember(self, state: WorldState, frames: Any, poses: Any) -> WorldState:
        raise ValueError("The toy world has no long-term memory.")

    def adopt(self, state: WorldState) -> WorldState:
        if tuple(state.latents.shape[1:]) != (self.context, *LATENT_SHAPE):
            raise ValueError(f"Recent latents of shape {tuple(state.latents.shape[1:])} are not of this toy world.")
        return state

    def encode_state(self, state: WorldState) -> Tensor:
        return state.latents[:, -1, :, 0, 0]

    def encode(self, frames: Any) -> Tensor:
        return self.arena.read_picture(torch.as_tensor(frames))


class ToyEnv(gym.Env[NDArray[np.uint8], Any]):
    """The real world that `ToyWorld` imagines: same arena, same pictures, poses in ``info``.

    Args:
        arena: dynamics and pictures.
        max_episode_steps: time limit, None for none.
        render_mode: ``rgb_array`` or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        arena: ToyArena | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.arena = arena or ToyArena()
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        spec = self.arena.actions
        discrete = spec.kind == "discrete"
        self.action_space = gym.spaces.Discrete(spec.n) if discrete else gym.spaces.Box(-1, 1, spec.shape)
        self.observation_space = gym.spaces.Box(0, 255, (*self.arena.frame_size, 3), np.uint8)
        self._pose = torch.zeros(1, POSE_DIM, dtype=torch.float64)
        self._elapsed = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        x, y = self.np_random.uniform(0, self.arena.size, 2)
        yaw = TURN * int(self.np_random.integers(16)) - math.pi
        self._elapsed = 0
        self.set_pose((options or {}).get("pose", [x, y, 0, yaw, 0]))
        return self._frame(), self._info()

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        before = self._pose
        self._pose = self.arena.arrive(before, self.arena.actions.check(np.asarray(action)[None], (1,)))
        self._elapsed += 1
        inside = bool(self.arena.at_goal(self._pose))
        reward = float(inside and not bool(self.arena.at_goal(before)))
        truncated = self.max_episode_steps is not None and self._elapsed >= self.max_episode_steps
        return self._frame(), reward, inside, truncated, self._info()

    def set_pose(self, pose: Any) -> None:
        """Stand at canonical ``pose`` (5,)."""
        self._pose = torch.as_tensor(np.asarray(pose, np.float64)).view(1, POSE_DIM)

    def render_at(self, pose: Any) -> NDArray[np.uint8]:
        """The picture (H, W, 3) seen from ``pose`` (5,), without going there."""
        return picture_at(self.arena, pose)

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        return self._frame() if self.render_mode else None

    def _frame(self) -> NDArray[np.uint8]:
        return picture_at(self.arena, self._pose)

    def _info(self) -> dict[str, Any]:
        return {"pose": self._pose[0].numpy().copy(), "success": bool(self.arena.at_goal(self._pose))}


def picture_at(arena: ToyArena, pose: Any) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of canonical ``pose`` (5,)."""
    tensor = torch.as_tensor(np.asarray(pose, np.float64)).view(1, POSE_DIM)
    frame: NDArray[np.uint8] = arena.picture(arena.latents(tensor))[0].numpy()
    return frame


def walk(arena: ToyArena, start: Any, actions: Any) -> tuple[Tensor, Tensor]:
    """Frames (1, T, H, W, 3) and poses (1, T, 5): the start (5,) and what T - 1 actions lead to."""
    pose = torch.as_tensor(np.asarray(start, np.float64)).view(1, POSE_DIM)
    poses = [pose]
    for action in torch.as_tensor(actions):
        pose = arena.arrive(pose, action.unsqueeze(0))
        poses.append(pose)
    track = torch.cat(poses)
    return arena.picture(arena.latents(track)).unsqueeze(0), track.unsqueeze(0)


def standing_at(world: ToyWorld, *poses: Any, seeds: Any = None) -> WorldState:
    """One world for each of ``poses`` (5,), which has seen the picture there and nothing else."""
    track = torch.as_tensor(np.asarray(poses, np.float64)).unsqueeze(1)
    frames = world.arena.picture(world.arena.latents(track[:, 0])).unsqueeze(1)
    dtype = torch.int64 if world.actions.kind == "discrete" else torch.float32
    nothing = torch.zeros(len(poses), 1, *world.actions.shape, dtype=dtype)
    return world.observe(world.start(len(poses), seeds), frames, nothing, track)


def toy_contexts(arena: ToyArena, n: int = 6, length: int = 5, seed: int = 0) -> Contexts:
    """Random walks far from the goal, recorded in the toy arena."""
    rng = np.random.default_rng(seed)
    frames, actions, poses = [], [], []
    for _ in range(n):
        if arena.actions.kind == "discrete":
            walked = rng.integers(arena.actions.n, size=length)
        else:
            walked = rng.uniform(-1, 1, (length, *arena.actions.shape)).astype(np.float32)
        seen, track = walk(arena, [*rng.uniform(100, 180, 2), 0, rng.uniform(-3, 3), 0], walked[1:])
        frames.append(seen[0].numpy())
        poses.append(track[0].numpy())
        actions.append(walked)
    seeds = np.arange(n, dtype=np.int64)
    return Contexts(np.stack(frames), np.stack(actions), np.stack(poses), seeds, arena.actions, "train")
