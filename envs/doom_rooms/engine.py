"""One ViZDoom engine: its life, its maps, exact poses and motions, its pictures."""

from __future__ import annotations

import atexit
import ctypes
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import vizdoom

from ...errors import EngineError
from .home import EngineHome, sweep
from .layout import Layout
from .wad import EMPTY_MAP, HOPS, MOVE_SCRIPT, PLACE_SCRIPT, SLOTS, WadFile, slot_bytes_for, textmap

FIXED = 65_536
"""The engine counts lengths in 1/65536 of a map unit and angles in 1/65536 of a turn."""

RESOLUTIONS = ((120, 160), (240, 320), (480, 640), (600, 800), (768, 1024), (960, 1280), (1200, 1600))

Place = tuple[int, int, int]
"""x, y and angle in the engine's own whole numbers."""

_open: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """A running engine. It shows one map at a time; `load` changes it in about three milliseconds.

    The engine is a process of its own. It lives in a private directory, dies with its parent on Linux, and what a
    killed process leaves, that directory, is removed when the next engine starts (`home.sweep`). A forked child does
    not share it: there it counts as closed.

    Args:
        layout: the first map.
        at_least: height and width in pixels that a picture must have; 4:3 pictures of the next larger size result.

    Raises:
        EngineError: the engine could not start.
    """

    _game: Any = None
    _slot = 0
    _wad: WadFile

    def __init__(self, layout: Layout, at_least: tuple[int, int] = (120, 160)) -> None:
        sizes = [s for s in RESOLUTIONS if s[0] >= at_least[0] and s[1] >= at_least[1]]
        if not sizes:
            raise EngineError(f"The engine draws up to {RESOLUTIONS[-1]} pixels (height, width); got {at_least}.")
        self.resolution = sizes[0]
        self._layout = layout
        self._start(layout)

    def __del__(self) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the engine."""
        return self._home.engine_pid

    @property
    def alive(self) -> bool:
        """Whether it runs: it has neither been closed nor failed."""
        return self._game is not None

    def load(self, layout: Layout) -> None:
        """Show another map, with the player anywhere on it."""
        if layout == self._layout:
            return
        text = textmap(layout)
        if len(text) > self._wad.slot_bytes:
            self.close()
            self._start(layout)
            return
        self._show(layout, text)

    def place(self, place: Place) -> bool:
        """Put the player at ``place``; False, and nobody moved, where it does not fit."""
        before = self.where()
        self._run(PLACE_SCRIPT, *place, tics=1)
        if self.where() == place:
            return True
        self._run(PLACE_SCRIPT, *before, tics=1)
        return False

    def move(self, dx: int, dy: int, angle: int) -> None:
        """Move by `HOPS` x (dx, dy) fixed-point units, sliding along what is in the way, then face ``angle``."""
        # A velocity that a script sets at the end of one tic moves the player in the next.
        self._run(MOVE_SCRIPT, dx, dy, angle, tics=HOPS + 1)

    def where(self) -> Place:
        """Where the player is."""
        x, y, degrees = self._variables[:3]
        return round(x * FIXED), round(y * FIXED), round(degrees * FIXED / 360) % FIXED

    def camera_height(self) -> float:
        """Height of the camera over the floor, in map units."""
        return float(self._variables[3])

    def picture(self) -> np.ndarray:
        """The view (height, width, 3) uint8, of `resolution`."""
        picture: np.ndarray = self._picture
        return picture

    def close(self) -> None:
        """End the engine and remove everything it made. Closing twice is fine."""
        if self._game is None:
            return
        game, self._game = self._game, None
        game.close()
        self._home.remove()
        _open.discard(self)

    def _start(self, layout: Layout) -> None:
        sweep()
        text = textmap(layout)
        self._home = EngineHome()
        self._slot = 0
        try:
            self._wad = WadFile(self._home.path / "maps.wad", slot_bytes_for(text))
            self._wad.write(SLOTS[0], EMPTY_MAP)
            self._game = _game(self._home, self._wad.path, self.resolution)
        except BaseException:
            self._home.remove()
            raise
        _open.add(self)
        # A map the engine cannot read crashes this process in `init`, but is an exception once the engine runs.
        self._guard(self._game.init)
        self.advance(1)
        self._home.hide_shared_memory()
        self._show(layout, text)

    def _show(self, layout: Layout, text: bytes) -> None:
        self._slot = 1 - self._slot
        self._wad.write(SLOTS[self._slot], text)
        self._layout = layout
        self._guard(lambda: (self._game.set_doom_map(SLOTS[self._slot]), self._game.new_episode()))
        self.advance(1)

    def _run(self, script: int, x: int, y: int, angle: int, tics: int) -> None:
        if self._game is None:
            raise EngineError("The Doom engine does not run any more; call reset() to start a new one.")
        self._game.send_game_command(f"puke {script} {x} {y} {angle}")
        self.advance(tics)

    def advance(self, tics: int) -> None:
        """Let time pass, 1/35 s of game time a tic, and look again."""
        self._guard(lambda: self._game.make_action([], tics))
        state = self._guard(self._game.get_state)
        if state is None:
            self._fail("it shows no picture")
        self._variables = state.game_variables
        self._picture = state.screen_buffer

    def _guard(self, call: Any) -> Any:
        try:
            return call()
        except (
            vizdoom.ViZDoomErrorException,
            vizdoom.ViZDoomUnexpectedExitException,
            vizdoom.ViZDoomIsNotRunningException,
        ) as error:
            self._fail(str(error).strip())

    def _fail(self, reason: str) -> None:
        self._abandon()
        self._home.remove()
        raise EngineError(
            f"The Doom engine stopped on map seed {self._layout.map_seed}: {reason} Call reset() to start a new engine."
        )

    def _abandon(self) -> None:
        """Forget a game that failed or that a fork copied. Freeing it would crash or hang the process: it stays."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._game))
        self._game = None
        _open.discard(self)


def _game(home: EngineHome, wad: Path, resolution: tuple[int, int]) -> Any:
    """A ViZDoom game that has not started yet."""
    package = Path(vizdoom.__file__).parent
    game = vizdoom.DoomGame()
    game.set_vizdoom_path(str(home.launcher_for(package / "vizdoom")))
    game.set_doom_game_path(str(package / "freedoom2.wad"))
    game.set_doom_scenario_path(str(wad))
    game.set_doom_config_path(str(home.path / "settings.ini"))
    game.set_doom_map(SLOTS[0])
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_seed(0)
    game.set_episode_timeout(0)
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{resolution[1]}X{resolution[0]}"))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    for layer in (
        "hud",
        "weapon",
        "crosshair",
        "decals",
        "particles",
        "messages",
        "corpses",
        "effects_sprites",
    ):
        getattr(game, f"set_render_{layer}")(False)
    game.set_available_buttons([])
    variable = vizdoom.GameVariable
    game.set_available_game_variables(
        [variable.POSITION_X, variable.POSITION_Y, variable.ANGLE, variable.CAMERA_POSITION_Z]
    )
    game.add_game_args("+movebob 0")
    return game


@atexit.register
def _close_all() -> None:
    for engine in list(_open):
        engine.close()


def _abandon_all() -> None:
    for engine in list(_open):
        engine._abandon()


os.register_at_fork(after_in_child=_abandon_all)
