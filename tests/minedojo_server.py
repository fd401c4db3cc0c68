"""A game that MineDojo cannot tell from Minecraft over the wire: MalmoEnv's protocol around an exact walker.

The world is flat and endless: a chequered ground, a sky, and coloured pillars whose places depend on the world's seed.
Everything here is in Minecraft's own frame (y up, z south, degrees, yaw clockwise from south, pitch downwards) and
knows nothing of the adapter. Walking has no inertia and no collisions: a key moves by the full speed at once.
"""

from __future__ import annotations

import json
import math
import re
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import numpy as np

WALK, SNEAK, SPRINT = 4.317 / 20, 1.295 / 20, 5.612 / 20
GROUND = 64.0
LAG = 2
"""Ticks after which a chat command takes effect."""
PILLAR_RADIUS = 0.6
VERTICAL_VIEW = 70.0
SLOTS = 41
ITEMS = ("dirt", "stone", "log", "planks", "stick", "torch", "diamond_sword", "cobblestone", "sand")
"""What the slots of a full inventory hold, over and over."""


@dataclass
class Player:
    """A walker, in Minecraft's frame; yaw is not wrapped, as in the game."""

    x: float
    y: float
    z: float
    yaw: float = 0.0
    pitch: float = 0.0
    life: float = 20.0
    airborne: int = 0

    def tick(self, keys: dict[str, str]) -> None:
        """One game tick: turn, then walk along the new heading."""
        pitch, yaw = (float(word) for word in keys.get("camera", "0 0").split())
        self.yaw += yaw
        self.pitch = max(-90.0, min(90.0, self.pitch + pitch))
        pressed = {key for key, value in keys.items() if value == "1"}
        ahead = ("forward" in pressed) - ("back" in pressed)
        left = ("left" in pressed) - ("right" in pressed)
        speed = WALK
        if "sneak" in pressed:
            speed = SNEAK
        elif "sprint" in pressed and ahead > 0:
            speed = SPRINT
        if ahead and left and "sneak" not in pressed:
            speed /= math.sqrt(2)
        angle = math.radians(self.yaw)
        self.x += speed * (-math.sin(angle) * ahead + math.cos(angle) * left)
        self.z += speed * (math.cos(angle) * ahead + math.sin(angle) * left)
        if self.airborne:
            self.airborne -= 1
            self.y = GROUND
        elif "jump" in pressed:
            self.airborne, self.y = 1, GROUND + 0.42


@dataclass
class World:
    """What a mission describes, and what has happened in it."""

    seed: str
    fresh: bool
    size: tuple[int, int]
    player: Player = field(init=False)
    pillars: list[tuple[float, float, tuple[int, int, int]]] = field(init=False)
    slots: list[str] = field(default_factory=lambda: ["air"] * SLOTS)
    pending: list[tuple[int, str]] = field(default_factory=list)
    over: bool = False

    def __post_init__(self) -> None:
        rng = np.random.default_rng(list(self.seed.encode()))
        x, z = rng.uniform(-20, 20, 2)
        self.player = Player(float(x), GROUND, float(z))
        self.pillars = [
            (float(x + dx), float(z + dz), tuple(int(c) for c in rng.integers(0, 256, 3)))
            for dx, dz in rng.uniform(-15, 15, (12, 2))
        ]

    @classmethod
    def from_xml(cls, xml: str) -> World:
        root = ElementTree.fromstring(xml)
        found = {element.tag.rpartition("}")[2]: element for element in root.iter()}
        generator = found["DefaultWorldGenerator"]
        size = int(str(found["Height"].text)), int(str(found["Width"].text))
        return cls(str(generator.get("seed")), generator.get("forceReset") == "true", size)

    def tick(self, keys: dict[str, str]) -> None:
        """Carry out the keys, and the commands that are due."""
        if "chat" in keys:
            self.pending.append((LAG, keys["chat"]))
        self.player.tick(keys)
        self.pending = [(ticks - 1, command) for ticks, command in self.pending]
        for _, command in [item for item in self.pending if item[0] <= 0]:
            self._command(command)
        self.pending = [item for item in self.pending if item[0] > 0]

    def _command(self, command: str) -> None:
        verb, *words = command.removeprefix("/").split()
        if verb == "tp":
            player = self.player
            player.x, player.y, player.z = (_coordinate(word, i != 1) for i, word in enumerate(words[:3]))
            player.yaw, player.pitch = (float(word) for word in words[3:])
            # Whoever is put into the air falls.
            player.airborne, player.y = 0, player.y if abs(player.y - GROUND) < 0.01 else GROUND
        elif verb == "kill":
            self.player.life = 0.0

    def picture(self) -> np.ndarray:
        """The view (H, W, 3) uint8, top row first."""
        height, width = self.size
        player = self.player
        scale = 2 * math.tan(math.radians(VERTICAL_VIEW / 2)) / height
        right = (np.arange(width) + 0.5 - width / 2) * scale
        down = (np.arange(height) + 0.5 - height / 2) * scale
        right, down = np.meshgrid(right, down)
        pitch, yaw = math.radians(player.pitch), math.radians(player.yaw)
        ahead = math.cos(pitch) - down * math.sin(pitch)
        sink = math.sin(pitch) + down * math.cos(pitch)
        east = -math.sin(yaw) * ahead - math.cos(yaw) * right
        south = math.cos(yaw) * ahead - math.sin(yaw) * right
        level = np.hypot(east, south)

        slope = np.clip(-sink / np.maximum(level, 1e-9), 0, 2)
        image = np.stack([100 + 40 * slope, 160 + 30 * slope, 255 - 20 * slope], -1)
        eye = player.y + 1.62 - GROUND
        reach = eye / np.maximum(sink, 1e-3)
        tiles = np.floor(player.x + east * reach) + np.floor(player.z + south * reach)
        ground = np.where((tiles % 2 == 0)[..., None], (90, 140, 60), (70, 110, 50))
        image = np.where((sink > 0)[..., None], ground, image)
        for x, z, colour in sorted(self.pillars, key=lambda p: -math.dist(p[:2], (player.x, player.z))):
            dx, dz = x - player.x, z - player.z
            along = (east * dx + south * dz) / np.maximum(level, 1e-9)
            across = np.abs(east * dz - south * dx) / np.maximum(level, 1e-9)
            hit = (across < PILLAR_RADIUS) & (along > PILLAR_RADIUS)
            image = np.where(hit[..., None], colour, image)
        return image.astype(np.uint8)

    def stats(self) -> dict[str, Any]:
        """What the game reports beside the picture."""
        player = self.player
        slots = [
            {"inventory": "inventory", "name": name, "variant": 0, "quantity": 0 if name == "air" else 1}
            | {"max_durability": -1, "cur_durability": -1}
            for name in self.slots
        ]
        return {
            "xpos": player.x, "ypos": player.y, "zpos": player.z, "yaw": player.yaw, "pitch": player.pitch,
            "life": player.life, "is_alive": player.life > 0, "inventory": slots,
            "nearby_crafting_table": False, "nearby_furnace": False,
        }  # fmt: skip


def _coordinate(word: str, horizontal: bool) -> float:
    """As the game reads it: a horizontal number without a decimal point means the middle of that block."""
    return float(word) + (0.5 if horizontal and "." not in word else 0.0)


class MineDojoServer:
    """Serves one connection at a time on ``port``, in threads of its own; use it as a context manager.

    Attributes:
        steps: the commands of every step so far, one dict of verb → parameters each.
        missions: the mission XML of every episode so far.
        misbehave: what to do at the next step instead of answering: ``"drop"`` the connection, ``"drop-after"``
            the answer, send ``"garbage"`` for the report, a ``"short"`` picture, an ``"empty"`` one, fall
            ``"silent"``, ``"end"`` the mission, or nothing special (None).
        full: give the player a full inventory at the start of a mission.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.steps: list[dict[str, str]] = []
        self.missions: list[str] = []
        self.misbehave: str | None = None
        self.full = False
        self.world: World | None = None
        self._closing = threading.Event()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> MineDojoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for link in (self._listener, *self._connections):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(link)
            self._threads.append(threading.Thread(target=self._serve, args=(link,), daemon=True))
            self._threads[-1].start()

    def _serve(self, link: socket.socket) -> None:
        with link, suppress(OSError, EOFError):
            hello = _receive(link).decode()
            assert re.fullmatch(r"<MalmoEnv[\d.]+/>", hello), hello
            while self._answer(link, _receive(link).decode()):
                pass

    def _answer(self, link: socket.socket, message: str) -> bool:
        """Answer one message; False hangs up."""
        if message.startswith("<MissionInit"):
            token = _receive(link).decode()
            assert re.fullmatch(r"[^:]+:0:0:1:true", token), token
            self.missions.append(message)
            world = World.from_xml(message)
            # The game keeps its world, whatever the seed, unless the mission forces a new one.
            if self.world is None or world.fresh:
                self.world = world
            self.world.over = False
            if self.full:
                self.world.slots = [ITEMS[slot % len(ITEMS)] for slot in range(SLOTS)]
            _send(link, struct.pack("!I", 1))
        elif message.startswith("<Quit"):
            _send(link, struct.pack("!I", 1))
        elif message.startswith("<Peek"):
            assert self.world is not None
            _send(link, self._pixels(self.world))
            _send(link, json.dumps(self.world.stats()).encode())
            _send(link, struct.pack("!b", 0))
        elif message.startswith("<StepClient"):
            return self._step(link, message)
        elif message.startswith("<Disconnect"):
            return False
        else:
            assert message.startswith("<StepServer"), message
        return True

    def _step(self, link: socket.socket, message: str) -> bool:
        assert self.world is not None
        body = re.fullmatch(r"<StepClient0>(.*)</StepClient0 >", message, re.DOTALL)
        assert body, message
        keys: dict[str, str] = {}
        for line in body[1].split("\n"):
            verb, _, parameters = line.partition(" ")
            keys[verb] = parameters
        self.steps.append(keys)
        fault, self.misbehave = self.misbehave, None
        if fault == "drop":
            return False
        if fault == "silent":
            self._closing.wait()
            return False
        self.world.tick(keys)
        self.world.over |= fault == "end"
        pixels = self._pixels(self.world)
        pixels = {"short": pixels[:-3], "empty": b""}.get(str(fault), pixels)
        report = b"{]" if fault == "garbage" else json.dumps(self.world.stats()).encode()
        _send(link, pixels)
        _send(link, struct.pack("!dbb", 0.0, self.world.over, 1))
        _send(link, report)
        return fault != "drop-after"

    @staticmethod
    def _pixels(world: World) -> bytes:
        """The picture as OpenGL reads it back: bottom row first."""
        return world.picture()[::-1].tobytes()


def _send(link: socket.socket, data: bytes) -> None:
    link.sendall(struct.pack("!I", len(data)) + data)


def _receive(link: socket.socket) -> bytes:
    (length,) = struct.unpack("!I", _exactly(link, 4))
    return _exactly(link, length)


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
