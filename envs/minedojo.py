"""`MineDojoEnv`: Minecraft through MineDojo, behind the Gymnasium interface."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from ..errors import ConfigError, EngineError
from ..rollouts.splits import Split, seed_range, split_of
from ..world_models.actions import ActionSpec
from .minedojo_actions import CELLS, DISCRETE, NAMED, Gait, check, decode, encode
from .minedojo_game import Game, View
from .pose_wrapper import Capabilities

STATIC_WORLD: dict[str, Any] = {
    "allow_mob_spawn": False,
    "allow_time_passage": False,
    "start_time": 6000,
    "initial_weather": "clear",
}
"""Arguments of ``MineDojoSim`` by default: noon without end, so that a place looks the same on return."""


class MineDojoEnv(gym.Env[np.ndarray, Any]):
    """Minecraft, through MineDojo's open-ended simulator; a map seed names a Minecraft world.

    Observations are pictures (H, W, 3) uint8. ``info`` holds ``pose`` (float64 (5,), the canonical pose of the
    picture, in blocks; see `minedojo_game.MINECRAFT`) and ``map_seed``; the game does not tell collisions. There is no
    reward. An episode terminates when the
    player dies or the mission ends.

    The world of map seed n is that of Minecraft's seed n + 1, because Minecraft takes 0 for "any". Every `reset`
    generates its world anew, so that nothing is left of an earlier episode.

        env = gym.make("worldloop/MineDojo-v0")
        frame, info = env.reset(options={"map_seed": 7})
        frame, reward, terminated, truncated, info = env.step(1)  # forward

    Args:
        actions: ``"discrete"``: one of `action_names`, a tick each; or ``"full"``: MineDojo's own
            ``MultiDiscrete`` of eight numbers, which `minedojo_actions.decode` explains. Functions that need an item
            do nothing where the slot is empty. Only discrete actions have an `action_spec`, which recording needs.
        frame_size: height and width of an observation in pixels.
        split: which map seeds `reset` draws from. Test maps are for reports only.
        map_seeds: draw from these seeds of the split instead of from all.
        max_steps: steps after which an episode is truncated.
        settings: further arguments of ``minedojo.sim.MineDojoSim``, in place of `STATIC_WORLD`'s where they meet.
        port: port of a game that runs already; by default one is started at the first `reset`.
        timeout: seconds to wait for an answer of the game.
        render_mode: ``"rgb_array"``: `render` returns the observation.

    Raises:
        ConfigError: arguments that make no environment, or MineDojo is not installed.
        EngineError: from `reset` and `step`: the game could not start, died or fell silent. `reset` starts anew.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    capabilities = Capabilities("read", settable=True, seeds_are_maps=True)

    def __init__(
        self,
        actions: Literal["discrete", "full"] = "discrete",
        frame_size: tuple[int, int] = (48, 64),
        split: Split = "train",
        map_seeds: Sequence[int] | None = None,
        max_steps: int = 1000,
        settings: dict[str, Any] | None = None,
        port: int | None = None,
        timeout: float = 240.0,
        render_mode: str | None = None,
    ) -> None:
        if actions not in ("discrete", "full"):
            raise ConfigError(f"actions is 'discrete' or 'full'; got {actions!r}.")
        sizes = np.asarray(frame_size)
        if sizes.shape != (2,) or sizes.dtype.kind not in "iu" or sizes.min() < 16:
            raise ConfigError(f"frame_size is (height, width) in pixels, at least (16, 16); got {frame_size!r}.")
        if max_steps < 1:
            raise ConfigError(f"max_steps is at least 1; got {max_steps}.")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode is None or 'rgb_array'; got {render_mode!r}.")
        self._seeds = _check_seeds(split, map_seeds)
        self.frame_size = int(sizes[0]), int(sizes[1])
        self.max_steps = max_steps
        self.render_mode = render_mode
        self.action_names: tuple[str, ...] = ()
        self.action_spec: ActionSpec | None = None
        self.action_space: gym.Space[Any]
        if actions == "discrete":
            self.action_names, self.action_spec = tuple(NAMED), DISCRETE
            self.action_space = gym.spaces.Discrete(len(NAMED))
        else:
            self.action_space = gym.spaces.MultiDiscrete(list(CELLS))
        self.observation_space = gym.spaces.Box(0, 255, (*self.frame_size, 3), np.uint8)

        self._settings = {**STATIC_WORLD, **(settings or {})}
        self._port, self._timeout = port, timeout
        self._game: Game | None = self._new_game()
        self._map_seed = 0
        self._view: View | None = None
        self._steps = 0
        self._over, self._closed = True, False

    # Gymnasium's interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in a freshly generated world. With the real game this takes tens of seconds.

        Args:
            seed: makes the choice of this map, and those of all later episodes, repeatable.
            options: ``"map_seed"`` (any seed of any split) instead of a random one.

        Raises:
            ValueError: an option that does not exist.
            EngineError: the game could not start or did not answer as it should.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        super().reset(seed=seed)
        self._over = True
        options = dict(options or {})
        map_seed = options.pop("map_seed", None)
        if options:
            raise ValueError(f"reset() knows the option 'map_seed'; got {', '.join(map(repr, options))}.")
        if map_seed is None:
            map_seed = self._seeds[int(self.np_random.integers(len(self._seeds)))]
        map_seed = operator.index(map_seed)
        split_of(map_seed)
        if self._game is None:
            self._game = self._new_game()
        try:
            self._view = self._game.start(map_seed)
        except EngineError:
            self._abandon()
            raise
        self._map_seed, self._steps, self._over = map_seed, 0, False
        return self._view.frame, self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step of one tick, or of three where the function needs it (`minedojo_actions.Function`).

        Raises:
            ValueError: an action outside the action space.
            gymnasium.error.ResetNeeded: the episode is over or has not begun.
            EngineError: the game died, fell silent, or sent what cannot be read. The episode is lost.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        game = self._running()
        vector = self._vector(action)
        try:
            self._view = game.step(vector, sneaking=decode(vector).gait is Gait.SNEAK)
        except EngineError:
            self._abandon()
            raise
        self._steps += 1
        truncated = not self._view.over and self._steps >= self.max_steps
        self._over = self._view.over or truncated
        return self._view.frame, 0.0, self._view.over, truncated, self._info()

    def render(self) -> np.ndarray | None:
        """The present observation, with ``render_mode="rgb_array"``."""
        if self.render_mode is None:
            gym.logger.warn('render() shows nothing without render_mode="rgb_array".')
            return None
        self._check_open()
        if self._view is None:
            raise gym.error.ResetNeeded("There is nothing to render yet; call reset() first.")
        return self._view.frame.copy()

    def close(self) -> None:
        """End the game if this environment started it, else hang up, for good. Closing twice is fine."""
        self._abandon()
        self._closed = True

    # What a real world offers beyond Gymnasium

    @property
    def generator_version(self) -> str:
        """What generates the worlds."""
        return "minecraft-1.11.2"

    @property
    def pose(self) -> np.ndarray:
        """Canonical pose (5,) float64 of the present picture."""
        self._check_open()
        if self._view is None:
            raise gym.error.ResetNeeded("There is no pose yet; call reset() first.")
        return self._view.pose.copy()

    def set_pose(self, pose: Any) -> np.ndarray:
        """Teleport the camera to ``pose`` (5,), within a thousandth of a block, and return the picture there.

        The game's clock goes on for a few ticks; no step is counted.

        Raises:
            ValueError: not a pose; or the player does not stay there, because the place is in the air or solid, and
                is now wherever the game put it.
            gymnasium.error.ResetNeeded: the episode is over or has not begun.
            EngineError: as `step`.
        """
        wanted = np.asarray(pose, np.float64)
        if wanted.shape != (5,) or not bool(np.isfinite(wanted).all()) or abs(wanted[4]) > np.pi / 2:
            raise ValueError(
                f"A pose is five finite numbers (x, y, z, yaw, pitch within a quarter turn); got {pose!r}."
            )
        game = self._running()
        try:
            self._view = game.teleport(wanted)
        except EngineError:
            self._abandon()
            raise
        self._over = self._view.over
        if not self._view.is_at(wanted):
            raise ValueError(f"The player does not stay at {wanted.tolist()}; it is now at {self.pose.tolist()}.")
        return self._view.frame

    def render_at(self, pose: Any) -> np.ndarray:
        """The picture (H, W, 3) at ``pose`` (5,), by going there and back; a few ticks pass.

        Raises:
            ValueError, gymnasium.error.ResetNeeded, EngineError: as `set_pose`.
        """
        before = self.pose
        try:
            return self.set_pose(pose)
        finally:
            if not self._over:
                self.set_pose(before)

    # Inside

    def _check_open(self) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError("This environment is closed: make another one.")

    def _new_game(self) -> Game:
        return Game(self.frame_size, self._settings, self._port, self._timeout)

    def _abandon(self) -> None:
        if self._game is not None:
            self._game.close()
        self._game, self._view, self._over = None, None, True

    def _running(self) -> Game:
        self._check_open()
        if self._game is None or self._over:
            raise gym.error.ResetNeeded("The episode is over or has not begun; call reset() before step().")
        return self._game

    def _vector(self, action: Any) -> np.ndarray:
        if self.action_spec is None:
            return check(action)
        if not self.action_space.contains(action):
            raise ValueError(
                f"An action is 0 … {self.action_spec.n - 1} ({', '.join(self.action_names)}); got {action!r}."
            )
        return encode(NAMED[self.action_names[int(action)]])

    def _info(self) -> dict[str, Any]:
        return {"pose": self.pose, "map_seed": self._map_seed}


def _check_seeds(split: Split, map_seeds: Sequence[int] | None) -> Sequence[int]:
    everything = seed_range(split)
    if map_seeds is None:
        return everything
    if not len(map_seeds) or any(seed not in everything for seed in map_seeds):
        raise ConfigError(
            f"map_seeds needs seeds of the {split} split ({everything.start} … {everything.stop - 1}), or None for "
            f"all of it; got {list(map_seeds)[:8]}."
        )
    return [int(seed) for seed in map_seeds]
