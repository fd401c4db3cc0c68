"""`WorldModel`: the learned video world, behind start / observe / imagine / render."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .actions import key_class, motion_magnitudes
from .config import WorldConfig
from .evidence import CLUES, HEADINGS, evidence, novelty_around
from .memory.bank import Arena
from .memory.kv_cache import KeyValueCache
from .memory.recall import Recalled, recall
from .memory.retrieval import Query, Strategy
from .noise import normal, uniform
from .perception.autoencoder import Autoencoder, latent_grid, to_frames, to_pictures
from .perception.state_encoder import Surroundings
from .pose import POSE_DIM, motion_between, move
from .prediction.cdit import CDiT
from .prediction.context import Context
from .prediction.flow import integrate
from .prediction.heads import ErrorHead, OutcomeHead, PoseHead
from .prediction.next_state import NextState
from .prediction.ways import once_more
from .state import WorldState
from .state_space import CARRIED, DEVIATION_SCALE, NOVELTY_SCALE, StateSpace
from .world import ImaginedStep

SCALE = 8.0
"""Steps that make one unit of length inside the video model."""
_ENCODED_AT_ONCE = 256
_BY_POSES = POSE_DIM + 2 * HEADINGS
"""Numbers of a state vector that poses tell."""
_WAY = 5
"""Stream of the draw between the two ways that a step may go."""


def _check_finite(poses: Tensor) -> None:
    if not bool(torch.isfinite(poses).all()):
        raise ValueError("A pose must be finite numbers; got NaN or infinity.")


class WorldModel(nn.Module):
    """A learned world: sees frames, remembers them, and imagines what an action would show.

    Implements `World`. Everything is a batch of B worlds; nothing is kept between calls but the `WorldState` passed in.

    Args:
        config: shape and behaviour.

    Attributes:
        mean_frame: (H, W, 3) float32, 0 … 255: the mean of the frames it was trained on, a baseline to beat.

    Example:
        >>> state = world.observe(world.start(1), frames, actions, poses)   # frames (1, T, H, W, 3) uint8
        >>> state, step = world.imagine(state, [1])                         # one imagined step forward
        >>> picture = world.render(step.latents)[0]                         # (H, W, 3) uint8
    """

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.config = config
        self.actions = config.actions
        self.frame_size = config.frame_size
        self.directory: Path | None = None
        self._memory: Arena | None = None
        self._origin = self._space_digest = ""
        channels, grid = config.autoencoder.channels, latent_grid(config.frame_size)
        self.autoencoder = Autoencoder(config.autoencoder)
        self.cdit = CDiT(config.cdit, channels, grid, config.fov, SCALE * config.actions.step_length)
        self.pose_head = PoseHead(channels, grid, config.ways)
        self.outcome_head = OutcomeHead(channels, grid, config.outcome_members)
        self.state_space: StateSpace | None = None
        if config.state is not None:
            self.state_space = StateSpace(
                config.state, channels, grid, config.fov, SCALE * config.actions.step_length
            )
        self.error_head = ErrorHead(CLUES) if config.error_head else None
        self.mean_frame: Tensor
        self.register_buffer("mean_frame", torch.zeros(*config.frame_size, 3))

    def use(self, config: WorldConfig) -> None:
        """Use the same parameters as ``config`` says: one made from this world's by `WorldConfig.with_overrides`."""
        self.config, self.cdit.config, self._memory = config, config.cdit, None

    @property
    def origin(self) -> str:
        """Digest of the autoencoder, as it was when this was asked first; states carry it."""
        if not self._origin:
            self._origin = _digest(self.autoencoder)
        return self._origin

    @property
    def retrieves(self) -> int:
        """R, frames looked up from memory for every imagined one; 0 without a memory."""
        if not self.config.remembers:
            return 0
        return self._states().config.recalled if self._in_state_space else len(self.config.cdit.retrieved)

    @property
    def state_size(self) -> int:
        """D, numbers in a state vector; 0 where the world has no state space."""
        return 0 if self.state_space is None else self.state_space.size + _BY_POSES

    @property
    def state_tokens(self) -> tuple[int, int] | None:
        """T and W: the first T · W numbers of a state vector are T tokens of W numbers, each of a part of the picture;
        None where the world has no state space."""
        if self.state_space is None:
            return None
        width = self.state_space.config.width
        return self.state_space.size // width, width

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.autoencoder.latent_mean.device

    def start(self, batch_size: int, seeds: Any = None) -> WorldState:
        """``batch_size`` worlds with an empty memory.

        Args:
            batch_size: B >= 1.
            seeds: (B,) integers that all noise comes from; default 0 … B-1.

        Raises:
            ValueError: no world asked for, or not one seed each.
        """
        if batch_size < 1:
            raise ValueError(f"At least one world is needed, got {batch_size}.")
        seeds = torch.arange(batch_size) if seeds is None else torch.as_tensor(seeds, dtype=torch.int64)
        if tuple(seeds.shape) != (batch_size,):
            raise ValueError(f"Expected {batch_size} seeds, got shape {tuple(seeds.shape)}.")
        arena = self._arena() if self.config.remembers else None
        state = WorldState.empty(seeds, self.config.context, self.config.latent_shape, self.device, arena, self.origin)
        if self.cdit.recurrence is not None:
            hidden, cell = self.cdit.recurrence.start(state.latents[:, 0])
            state = replace(state, carried={"hidden": hidden, "cell": cell})
        elif self.config.cdit.compressed:
            nothing = self.cdit.read(state.latents[:, :1], torch.zeros(batch_size, 1, device=self.device))
            cache = KeyValueCache.empty(nothing, self.config.context, self.config.cdit.compressed, self.cdit.tokens)
            state = replace(state, carried=cache.to_tensors())
        return self._summed_up(state)

    def observe(self, state: WorldState, frames: Any, actions: Any, poses: Any) -> WorldState:
        """Real experience in (perceive, remember).

        Args:
            state: B worlds.
            frames: (B, T, H, W, 3) uint8.
            actions: (B, T, ...) in the world's own action space; action t led to frame t. The first, on an empty
                memory, is ignored.
            poses: (B, T, 5) float64 canonical pose of every frame.

        Raises:
            ValueError: a state, shape, type or action that does not fit this world.
        """
        self.check(state)
        pictures = self._frames(frames, leading=2)
        b, t = pictures.shape[:2]
        if b != state.batch_size or t < 1:
            raise ValueError(f"Expected frames of {state.batch_size} worlds and at least one frame each, got {b}x{t}.")
        asked = self.actions.nominal_motion(self.actions.check(actions, (b, t), self.device)[:, -1])
        track = torch.as_tensor(poses, dtype=torch.float64, device=self.device)
        if tuple(track.shape) != (b, t, POSE_DIM):
            raise ValueError(f"Expected poses of shape {(b, t, POSE_DIM)}, got {tuple(track.shape)}.")
        _check_finite(track)
        before = torch.where((state.step > 0).view(-1, 1), state.pose, track[:, 0])
        motions = motion_between(torch.cat([before.unsqueeze(1), track[:, :-1]], 1), track).to(torch.float32)
        k = self.config.context
        everything = state.memory is not None or self.cdit.recurrence is not None
        needed = pictures if everything else pictures[:, -(k + self.config.cdit.compressed) :]
        latents = torch.cat([self.encode(part) for part in needed.flatten(0, 1).split(_ENCODED_AT_ONCE)])
        latents = latents.unflatten(0, (b, -1))
        kept = min(k, t)

        def shift(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat([old, new[:, -kept:].to(old.dtype)], 1)[:, -k:]

        after = WorldState(
            seeds=state.seeds,
            step=state.step + t,
            pose=track[:, -1],
            latents=shift(state.latents, latents),
            poses=shift(state.poses, track),
            motions=shift(state.motions, motions),
            valid=shift(state.valid, torch.ones(b, kept, dtype=torch.bool, device=self.device)),
            # Nothing was asked for on the way to a first frame.
            deviation=torch.where((state.step + t > 1).view(-1, 1), motions[:, -1] - asked, 0.0),
            memory=None if state.memory is None else state.memory.extend(latents, track),
            carried=self._carry(
                state, latents, track[:, -latents.shape[1] :], motions[:, -latents.shape[1] :],
                state.step + t - latents.shape[1],
            ),
            origin=state.origin,
        )
        return self._summed_up(after)

    def imagine(self, state: WorldState, actions: Any, pose: Any = None) -> tuple[WorldState, ImaginedStep]:
        """One imagined step (predict, evaluate): the pose first, then the picture, then what it is worth.

        Args:
            state: B worlds, each of which has seen at least one frame to continue from.
            actions: (B, ...) in the world's own action space.
            pose: (B, 5) canonical pose of the frame to imagine; replaces the predicted one.

        Returns:
            The state one frame later, and the step.

        Raises:
            ValueError: a state, actions or a pose that do not fit this world.
        """
        self.check(state)
        b, spec = state.batch_size, self.actions
        asked = spec.nominal_motion(spec.check(actions, (b,), self.device))
        if pose is not None:
            pose = torch.as_tensor(pose, dtype=torch.float64, device=self.device)
            if tuple(pose.shape) != (b, POSE_DIM):
                raise ValueError(f"Expected poses of shape {(b, POSE_DIM)}, got {tuple(pose.shape)}.")
            _check_finite(pose)
        if self._in_state_space:
            return self._imagine_state(state, asked, pose)
        keys = key_class(asked)
        last = state.latents[:, -1]
        if pose is None:
            motion = self._motion(state, asked)
            arrived = move(state.pose, motion.to(torch.float64))
        else:
            arrived, motion = pose, motion_between(state.pose, pose).to(torch.float32)
        magnitudes = self.magnitudes(motion)
        recalled = self._recall(state, arrived)
        context = self._context(state, arrived, recalled)
        noise = normal(state.seeds, state.step, self.config.latent_shape)
        latents, mean = integrate(
            lambda x, moment: self.cdit(x, moment, keys, magnitudes, context),
            noise,
            self.config.denoising_steps,
            self.config.sampler,
        )
        rewards, logits = self.outcome_head(last, latents, magnitudes)
        step = ImaginedStep(
            latents=latents,
            pose=arrived,
            reward=rewards.mean(1),
            continues=logits.sigmoid().mean(1),
            uncertainty=(latents - mean).square().mean((1, 2, 3)).sqrt(),
            retrieved_times=recalled.times.where(recalled.valid, -1),
            retrieved_poses=recalled.poses,
        )
        after = state.append(latents, arrived, motion, motion - asked)
        carried = self._carry(
            state, latents.unsqueeze(1), arrived.unsqueeze(1), motion.unsqueeze(1), state.step
        )
        return replace(after, carried=carried), step

    def encode_state(self, state: WorldState) -> Tensor:
        """The state vectors (B, D) of B worlds: what they see and remember of their surroundings (D - 21 numbers), how
        far the last step went off what was asked for (5; 10 for a step or a turn), and how new what they could see
        about them would be (16; 0 for what memory knows, 5 for what it does not, see `novelty_around`).

        In state space the first are the imagined ones. Elsewhere they are made of the recent frames and of memory, and
        gradients reach the latents. The others are known exactly from poses: that one has been stopped by a wall, and
        where one has looked already, is hard to tell from pictures.

        Raises:
            ConfigError: the world has no state space.
        """
        off = state.deviation / self._unit(state.deviation)
        new = novelty_around(state, self.actions.step_length)
        return torch.cat([self._summary(state), DEVIATION_SCALE * off.to(torch.float32), NOVELTY_SCALE * new], 1)

    def _summary(self, state: WorldState) -> Tensor:
        """What is seen and remembered (B, D - 21), as the state space steps on from it."""
        if self._in_state_space and CARRIED in state.carried:
            imagined: Tensor = state.carried[CARRIED]
            return imagined
        return self._states().encode(self.surroundings(state))

    def surroundings(self, state: WorldState) -> Surroundings:
        """The frames that `encode_state` looks at."""
        return self._states().look_around(state, self._strategy)

    def state_motion(self, state: WorldState, asked: Tensor) -> Tensor:
        """Motion (B, 5) really made if ``asked`` (B, 5), told from state vectors; in world units and radians, and
        differentiable."""
        unit = self._unit(asked)
        correction = self._states().head.correct(
            self._summary(state), self.magnitudes(asked), state.deviation / unit
        )
        return asked + correction * unit

    def step_state(
        self, vectors: Tensor, left: Tensor, motion: Tensor, deviation: Tensor, recalled: Surroundings
    ) -> NextState:
        """One step in state space, differentiable.

        Args:
            vectors: (B, D - 21), as `StateSpace.encode` makes them.
            left: (B, 5) canonical poses that the step begins at.
            motion: (B, 5) made, in world units and radians.
            deviation: (B, 5) how far that is off what was asked for.
            recalled: what is remembered of the frames about to be seen.
        """
        return self._states().step(vectors, left, self.magnitudes(motion), deviation / self._unit(motion), recalled)

    def adopt(self, state: WorldState) -> WorldState:
        """``state`` as this world carries it on, whichever way of imagining it comes from.

        Raises:
            ValueError: a state that is not one of this world's, see `check`.
        """
        self.check(state)
        return state if self._in_state_space == (CARRIED in state.carried) else self._summed_up(state)

    def reward_spread(self, before: WorldState, step: ImaginedStep) -> Tensor:
        """Standard deviation (B,) of the reward of ``step``, imagined from ``before``, over the ensemble's members."""
        motion = motion_between(before.pose, step.pose).to(torch.float32)
        rewards, _ = self.outcome_head(before.latents[:, -1], step.latents, self.magnitudes(motion))
        spread: Tensor = rewards.std(1, correction=0)
        return spread

    def expected_error(self, before: WorldState, step: ImaginedStep) -> Tensor:
        """How wrong the frames of ``step``, imagined from ``before``, are expected to be (B,); see `ErrorHead`.

        Raises:
            ValueError: this world has not learned that.
        """
        if self.error_head is None:
            raise ValueError("This world has no error head; train one with --error.steps.")
        clues = evidence(before, step, self.actions.step_length, self.actions.step_angle)
        logarithm: Tensor = self.error_head(clues)
        return logarithm.exp()

    def remember(self, state: WorldState, frames: Any, poses: Any) -> WorldState:
        """Put real frames into memory without going there: what memory gives from now on may be one of them.

        The worlds stay where they are, K + T steps later: only what is older than the K recent frames is looked up.

        Args:
            state: B worlds with a long-term memory.
            frames: (B, T, H, W, 3) uint8.
            poses: (B, T, 5) float64 canonical.

        Raises:
            ValueError: no long-term memory, or a state, shape, type or pose that does not fit this world.
        """
        self.check(state)
        if state.memory is None:
            raise ValueError("Only a world with a long-term memory can be given frames to remember; this one has none.")
        pictures = self._frames(frames, leading=2)
        b, t = pictures.shape[:2]
        track = torch.as_tensor(poses, dtype=torch.float64, device=self.device)
        if b != state.batch_size or tuple(track.shape) != (b, t, POSE_DIM):
            raise ValueError(
                f"Expected frames (B, T, H, W, 3) and poses (B, T, 5) of {state.batch_size} worlds, got "
                f"{tuple(pictures.shape)} and {tuple(track.shape)}."
            )
        latents = self.encode(pictures.flatten(0, 1)).unflatten(0, (b, t))
        memory, k = state.memory.extend(latents, track), self.config.context
        return replace(state, memory=replace(memory, last_time=memory.last_time + k), step=state.step + t + k)

    def check(self, state: WorldState) -> None:
        """Refuse a state that is neither of this world nor of one that remembers as it does.

        Raises:
            ValueError: with what differs.
        """
        config = self.config
        expected, found = (config.context, *config.latent_shape), tuple(state.latents.shape[1:])
        if found != expected:
            raise ValueError(f"This state holds recent latents of shape {found}, this world's are {expected}.")
        if config.remembers and state.memory is None:
            raise ValueError("This state has no long-term memory, but this world needs one; begin with its start().")
        kinds = {"hidden", "cell"} if config.cdit.recurrent else {"window"} if config.cdit.compressed else set()
        if not kinds <= set(state.carried):
            raise ValueError("This state was made by a world that remembers in another way; begin with start().")
        eyes, _, space = state.origin.partition("/")
        if eyes != self.origin:
            raise ValueError("This state was made by a world with another autoencoder: its latents mean nothing here.")
        if self._in_state_space and CARRIED in state.carried and space != self._space:
            raise ValueError("This state was imagined in another state space: its vector means nothing here.")

    def render(self, latents: Tensor) -> Tensor:
        """Pictures (B, H, W, 3) uint8 of latents (B, C, h, w)."""
        return to_frames(self.autoencoder.decode(latents))

    def encode(self, frames: Any) -> Tensor:
        """Latents (B, C, h, w) of frames (B, H, W, 3) uint8.

        Raises:
            ValueError: frames of another size or type.
        """
        return self.autoencoder.encode(to_pictures(self._frames(frames, leading=1)))

    def magnitudes(self, motion: Tensor) -> Tensor:
        """RELIC's 13 magnitudes (B, 13) of motions (B, 5), in units of this world's steps."""
        return motion_magnitudes(motion, self.actions.step_length, self.actions.step_angle)

    def predict_motion(self, last: Tensor, deviation: Tensor, asked: Tensor) -> Tensor:
        """Motion (B, 5) really made from the frame ``last`` (B, C, h, w) if ``asked`` (B, 5), where the motion before
        was ``deviation`` (B, 5) off what was asked then; all in world units and radians."""
        unit = self._unit(asked)
        correction: Tensor = self.pose_head(last, key_class(asked), self.magnitudes(asked), deviation / unit)
        return asked + correction * unit

    def motion_ways(self, last: Tensor, deviation: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Motions (B, W, 5) made minus what was ``asked``, in steps and turns, one for each way that a step may go, and
        the logarithms (B, W) of how likely these are; arguments as `predict_motion` has them."""
        return self.pose_head.ways(last, key_class(asked), self.magnitudes(asked), deviation / self._unit(asked))

    def _motion(self, state: WorldState, asked: Tensor) -> Tensor:
        """Motion (B, 5) made if ``asked`` (B, 5), as ``config.motions`` says."""
        unit, made = self._unit(asked), state.motions[:, -1]
        again = once_more((made - state.deviation) / unit, made / unit, asked / unit).unsqueeze(1)
        if self.config.motions == "likeliest":
            if self._in_state_space:
                motion = self.state_motion(state, asked)
            else:
                motion = self.predict_motion(state.latents[:, -1], state.deviation, asked)
            return torch.where(again & (self.config.stopped_again > 0.5), made, motion)
        if self._in_state_space:
            vectors, last = self._summary(state), state.deviation / unit
            ways, chances = self._states().head.ways(vectors, self.magnitudes(asked), last)
        else:
            ways, chances = self.motion_ways(state.latents[:, -1], state.deviation, asked)
        drawn = uniform(state.seeds, state.step, (1,), _WAY)
        motion = asked + torch.where(drawn < chances[:, 1:].exp(), ways[:, 1], ways[:, 0]) * unit
        return torch.where(again & (drawn < self.config.stopped_again), made, motion)

    def _imagine_state(
        self, state: WorldState, asked: Tensor, pose: Tensor | None
    ) -> tuple[WorldState, ImaginedStep]:
        """`imagine` without drawing; memory is read, and what is imagined is not written to it."""
        if pose is None:
            motion = self._motion(state, asked)
            arrived = move(state.pose, motion.to(torch.float64))
        else:
            arrived, motion = pose, motion_between(state.pose, pose).to(torch.float32)
            asked = motion
        recalled = self._states().look_ahead(state, self._strategy, arrived)
        after = self.step_state(self._summary(state), state.pose, motion, motion - asked, recalled)
        latents = self._states().head.decode(after.state)
        step = ImaginedStep(
            latents=latents,
            pose=arrived,
            reward=after.reward,
            continues=after.goes_on.sigmoid(),
            uncertainty=after.disagreement,
            retrieved_times=(state.step.unsqueeze(1) - recalled.age).where(recalled.valid, -1),
            retrieved_poses=recalled.poses,
        )
        appended = state.append(latents, arrived, motion, motion - asked, remember=False)
        return replace(appended, carried={**state.carried, CARRIED: after.state}), step

    def _summed_up(self, state: WorldState) -> WorldState:
        """The state with its vector where this world imagines in state space, without one elsewhere."""
        carried, origin = {name: tensor for name, tensor in state.carried.items() if name != CARRIED}, self.origin
        if self._in_state_space:
            origin = f"{origin}/{self._space}"
            vectors = torch.zeros(state.batch_size, self._states().size, device=self.device)
            if bool(state.valid[:, -1].any()):
                vectors = self._states().encode(self.surroundings(state))
            carried[CARRIED] = vectors
        return replace(state, carried=carried, origin=origin)

    @property
    def _strategy(self) -> Strategy | None:
        """How frames are chosen from memory; None for not at all."""
        return self.config.strategy if self.config.remembers else None

    @property
    def _space(self) -> str:
        """Digest of the state space, as it was when this was asked first."""
        if not self._space_digest:
            self._space_digest = _digest(self._states())
        return self._space_digest

    @property
    def _in_state_space(self) -> bool:
        return self.config.imagination == "state"

    def _states(self) -> StateSpace:
        if self.state_space is None:
            raise ConfigError("This world has no state space; train one, as presets do, or imagine in video.")
        return self.state_space

    def _unit(self, like: Tensor) -> Tensor:
        """(5,) a step and a turn, for motions."""
        length, angle = self.actions.step_length, self.actions.step_angle
        return like.new_tensor([length, length, length, angle, angle])

    def _recall(self, state: WorldState, arrived: Tensor) -> Recalled:
        """What memory gives for the frame at ``arrived`` (B, 5)."""
        query = Query(arrived, state.step, state.seeds, skip=self.config.context)
        if state.memory is None or not self.retrieves:
            return Recalled.nothing(query, self.config.latent_shape)
        return recall(state.memory, self.config.strategy, query, self.retrieves)

    def _context(self, state: WorldState, arrived: Tensor, recalled: Recalled) -> Context:
        """What the frame at ``arrived`` (B, 5) is predicted from: the recent frames, and those recalled."""
        b, k, device = state.batch_size, self.config.context, self.device
        if self.config.cdit.compressed:
            parts = KeyValueCache.from_tensors(state.carried, self.cdit.tokens).parts(state.step)
            return self.cdit.place(parts, state.latents[:, -1], arrived)
        latents, poses, valid = state.latents, state.poses, state.valid
        time = torch.arange(-k, 0, device=device).expand(b, k)
        if recalled.valid.shape[1]:
            latents, poses = torch.cat([latents, recalled.latents], 1), torch.cat([poses, recalled.poses], 1)
            valid = torch.cat([valid, recalled.valid], 1)
            age = recalled.times - state.step.unsqueeze(1)
            time = torch.cat([time, self.cdit.offsets(age, recalled.valid)], 1)
        others = [] if self.cdit.recurrence is None else [self.cdit.recollect(state.carried["hidden"], state.pose)]
        clean = torch.zeros_like(time, dtype=torch.float32)
        return self.cdit.context(latents, clean, time, poses, valid, arrived, others)

    def _carry(
        self, state: WorldState, latents: Tensor, poses: Tensor, motions: Tensor, first: Tensor
    ) -> Mapping[str, Tensor]:
        """What is carried on after T frames: latents (B, T, C, h, w), poses and motions (B, T, 5), first time (B,)."""
        if self.cdit.recurrence is not None:
            held = state.carried["hidden"], state.carried["cell"]
            for t in range(latents.shape[1]):
                held = self.cdit.recurrence(held, latents[:, t], self.magnitudes(motions[:, t]))
            return {"hidden": held[0], "cell": held[1]}
        if not self.config.cdit.compressed:
            return {}
        cache = KeyValueCache.from_tensors(state.carried, self.cdit.tokens)
        clean = torch.zeros(len(first), 1, device=self.device)
        for t in range(latents.shape[1]):
            cache = cache.append(self.cdit.read(latents[:, t : t + 1], clean), poses[:, t], first + t)
        return cache.to_tensors()

    def _arena(self) -> Arena:
        """Where the worlds that this model imagines keep their frames."""
        if self._memory is None or self._memory.device != self.device:
            config = self.config
            self._memory = Arena(config.latent_shape, self.device, capacity=config.capacity, when_full=config.when_full)
        return self._memory

    def _frames(self, frames: Any, leading: int) -> Tensor:
        tensor = torch.as_tensor(frames, device=self.device)
        if (
            tensor.dtype != torch.uint8
            or tensor.ndim != leading + 3
            or tuple(tensor.shape[leading:]) != (*self.frame_size, 3)
        ):
            expected = (*("B", "T")[:leading], *self.frame_size, 3)
            raise ValueError(
                f"This world sees uint8 frames of shape ({', '.join(map(str, expected))}), "
                f"got {tensor.dtype} {tuple(tensor.shape)}."
            )
        return tensor


def _digest(module: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
