"""Which remembered frames to look at, given the pose of the frame about to be predicted.

Every strategy is one function of a `Query` and of what is remembered; none ever returns a frame from the query's own
time or later. Everything is batched over worlds, and the order of equally good frames is fixed: newest first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import ConfigError
from ..noise import hash64, uniform
from ..pose import camera_axes, forward_vector, pose_distance

Exclusion = Literal["recent", "spacing"]
_NEVER = -math.inf
_BLIND = -1e15
"""Score of a frame that a formula gives none, less its distance: below every score, in the order of nearness."""
_RIGHT_ANGLE = 1e-12
"""Cosines, with their weights, that are 0 but for rounding."""


@dataclass(frozen=True)
class Query:
    """What B worlds are about to predict.

    Attributes:
        pose: (B, 5) float64 canonical, of the frame to predict.
        time: (B,) int64 of that frame.
        seeds: (B,) int64 of the worlds.
        skip: so many latest steps are never chosen, for they are seen anyway.
    """

    pose: Tensor
    time: Tensor
    seeds: Tensor
    skip: int = 0

    def __getitem__(self, worlds: Tensor) -> Query:
        """The queries of selected worlds."""
        return replace(self, pose=self.pose[worlds], time=self.time[worlds], seeds=self.seeds[worlds])


@dataclass(frozen=True)
class Remembered:
    """Poses and times of what B worlds remember, oldest first, with gaps where ``exist`` is False.

    Attributes:
        poses: (B, N, 5) float64 canonical.
        times: (B, N) int64.
        exist: (B, N) bool.
        imagined: (B, N) bool, which of them the world made up; None where all were observed.
    """

    poses: Tensor
    times: Tensor
    exist: Tensor
    imagined: Tensor | None = None


@dataclass(frozen=True)
class Retrieved:
    """The frames chosen, best first.

    Attributes:
        columns: (B, k) int64, into the N columns of `Remembered`; 0 where there was no frame to choose.
        valid: (B, k) bool, where there was one.
        score: (B, k), the strategy's own score; minus infinity where there was none.
    """

    columns: Tensor
    valid: Tensor
    score: Tensor


@dataclass(frozen=True)
class Probe:
    """A place to search a tree of embedded frames at: a frame D away from it scores at most ``best`` - D²/2.

    Attributes:
        points: (Q, 6), one for every query.
        best: the score that nothing surpasses.
    """

    points: Tensor
    best: float


class Strategy(Protocol):
    """How to choose."""

    def __call__(self, query: Query, remembered: Remembered, k: int) -> Retrieved:
        """The ``k`` best frames before the query's time; fewer where fewer exist."""


def retrieve(strategy: Strategy, query: Query, remembered: Remembered, k: int) -> Retrieved:
    """Choose frames, after checking what is asked.

    Args:
        strategy: how.
        query: for which frame.
        remembered: from which frames.
        k: how many; places that cannot be filled are marked in ``valid``.

    Raises:
        ValueError: a negative k, shapes that do not fit, or a pose that is no number.
    """
    b, n = remembered.exist.shape
    if k < 0:
        raise ValueError(f"The number of frames to retrieve is at least 0, got {k}.")
    shapes = {
        "query.pose": (query.pose, (b, 5)), "query.time": (query.time, (b,)), "query.seeds": (query.seeds, (b,)),
        "poses": (remembered.poses, (b, n, 5)), "times": (remembered.times, (b, n)),
    }  # fmt: skip
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != shape:
            got = tuple(tensor.shape)
            raise ValueError(f"Retrieval for {b} worlds from {n} frames takes {name} of shape {shape}, got {got}.")
    # Sums are quick to tell; where they look suspicious, it may be a gap that holds no number.
    if bool((query.pose.sum() + remembered.poses.sum()).isnan()) and (
        bool(query.pose.isnan().any()) or bool(remembered.poses[remembered.exist].isnan().any())
    ):
        raise ValueError("A pose to retrieve by must be a number, not NaN.")
    return strategy(query, remembered, k)


@dataclass(frozen=True)
class WorldPack:
    """The score of WorldPack §4.2, ranked in log space so that it never underflows.

    With Δ from the query's position to a frame's, s = Δ·d along the query's view d, ℓ the distance to that line, and c
    the cosine between the two views::

        w_view max(c, 0) exp(-s²/2σ_s²) exp(-ℓ²/2σ_ℓ²) + w_back max(-c, 0) exp(-(s-μ)²/2σ_s²) exp(-ℓ²/2σ_ℓ²)

    The first term finds frames that looked the same way from nearby, the second those that looked back from μ ahead.
    Frames that score zero (views at right angles) come last, the nearest first.

    The defaults fit generated rooms of 320 units seen at 90 degrees: a view keeps most of its content over half a room
    along its axis (σ_s = 160) and a quarter of one across it (σ_ℓ = 80), and what looks back from the other
    side of a room (μ = 200) shares only what lies between, so it counts a quarter. There is no exclusion window: the
    recent frames of the context are skipped anyway, and what was seen just before them is worth knowing when one turns
    around. `printed` has the paper's numbers, and its window.
    """

    sigma_along: float = 160.0
    sigma_across: float = 80.0
    mu: float = 200.0
    weight_view: float = 1.0
    weight_back: float = 0.25
    pose_scale: float = 1.0
    """Positions are multiplied by this first."""
    exclusion: int = 0
    """Steps of the exclusion window."""
    exclusion_mode: Exclusion = "recent"
    """``"recent"`` leaves the latest ``exclusion`` steps out; ``"spacing"`` keeps choices that far apart. Frames
    excluded so are used after all others, rather than none."""
    weight_imagined: float = 1.0
    """The score of a frame that the world made up is multiplied by this, at most 1: what was seen is worth more."""

    def __post_init__(self) -> None:
        weights = self.weight_view, self.weight_back, self.weight_imagined
        if min(self.sigma_along, self.sigma_across, self.pose_scale, *weights) <= 0 or self.weight_imagined > 1:
            raise ConfigError("WorldPack's sigmas, weights and pose scale are positive; weight_imagined is at most 1.")
        if self.exclusion < 0:
            raise ConfigError(f"An exclusion window is at least 0 steps, got {self.exclusion}.")
        if self.exclusion_mode not in ("recent", "spacing"):
            raise ConfigError(f"exclusion_mode is 'recent' or 'spacing'; got {self.exclusion_mode!r}.")

    @classmethod
    def printed(cls, pose_scale: float = 1.0) -> WorldPack:
        """The constants as the paper prints them."""
        return cls(0.01, 10.0, 1.0, 1.0, 1.0, pose_scale, exclusion=20)

    def score(self, pose: Tensor, poses: Tensor) -> Tensor:
        """Logarithm of the score (B, N) of ``poses`` (B, N, 5) for queries ``pose`` (B, 5); `_BLIND` where it is 0."""
        offset = poses[..., :3] - pose[:, None, :3]
        view = forward_vector(pose).unsqueeze(1)
        along, distance2 = _dot(offset, view), _dot(offset, offset)
        across2 = (distance2 - along.square()).clamp(min=0)
        cosine = _dot(forward_vector(poses), view)
        # One of the two terms at most is above zero: which one, the views tell.
        share = torch.maximum(self.weight_view * cosine, -self.weight_back * cosine)
        shift = along.sub((cosine < 0).to(along), alpha=self.mu / self.pose_scale)
        wide, high = (0.5 * (self.pose_scale / sigma) ** 2 for sigma in (self.sigma_along, self.sigma_across))
        # At right angles rounding would say which of them is the better one.
        score = F.threshold(share, _RIGHT_ANGLE, 0.0).log().sub(shift.square(), alpha=wide).sub(across2, alpha=high)
        return torch.maximum(score, _BLIND - distance2.sqrt())

    def embed(self, poses: Tensor) -> Tensor:
        """(..., 6) points so far apart, D, that no frame scores more than ln w_view - D²/2.

        For s²/σ_s² + ℓ²/σ_ℓ² is at least the squared distance over the greater σ's square, and ln c at most c - 1, that
        is, half the squared distance of the views, negative.
        """
        return self._points(poses[..., :3], forward_vector(poses))

    def probes(self, pose: Tensor) -> list[Probe]:
        """Where to search for frames that may score well from ``pose`` (Q, 5): around it, and ahead looking back."""
        place, view = pose[:, :3], forward_vector(pose)
        back = self._points(place.add(view, alpha=self.mu / self.pose_scale), -view)
        return [Probe(self._points(place, view), math.log(self.weight_view)), Probe(back, math.log(self.weight_back))]

    def _points(self, places: Tensor, views: Tensor) -> Tensor:
        """`embed` of the poses at ``places`` (..., 3) that look along ``views`` (..., 3)."""
        return torch.cat([places * (self.pose_scale / max(self.sigma_along, self.sigma_across)), views], -1)

    def __call__(self, query: Query, remembered: Remembered, k: int) -> Retrieved:
        score = self.score(query.pose, remembered.poses)
        if remembered.imagined is not None and self.weight_imagined < 1:
            score = torch.where(remembered.imagined, score + math.log(self.weight_imagined), score)
        return choose(score, query, remembered, k, self.exclusion, self.exclusion_mode)


@dataclass(frozen=True)
class Nearest:
    """The nearest poses: (distance / ``length``)² + (angle between the views / ``angle``)², smallest first."""

    length: float = 80.0
    angle: float = math.pi / 4
    exclusion: int = 0
    exclusion_mode: Exclusion = "recent"

    def embed(self, poses: Tensor) -> Tensor:
        """(..., 6) points so far apart, D, that no frame scores more than -D²/2: an angle is no less than its chord."""
        root = math.sqrt(2)
        return torch.cat([poses[..., :3] * (root / self.length), forward_vector(poses) * (root / self.angle)], -1)

    def probes(self, pose: Tensor) -> list[Probe]:
        """Where to search for frames that may score well from ``pose`` (Q, 5)."""
        return [Probe(self.embed(pose), 0.0)]

    def score(self, pose: Tensor, poses: Tensor) -> Tensor:
        """Score (B, N) of ``poses`` (B, N, 5) for queries ``pose`` (B, 5); (B, N, Q) of (B, N, 1, 5) for (B, Q, 5)."""
        distance, angle = pose_distance(poses, pose.unsqueeze(1))
        return -((distance / self.length).square() + (angle / self.angle).square())

    def __call__(self, query: Query, remembered: Remembered, k: int) -> Retrieved:
        score = self.score(query.pose, remembered.poses)
        return choose(score, query, remembered, k, self.exclusion, self.exclusion_mode)


@dataclass(frozen=True)
class Random:
    """Frames drawn by the world's seed and the query's time: the least that choosing must beat."""

    exclusion: int = 0

    def __call__(self, query: Query, remembered: Remembered, k: int) -> Retrieved:
        key = hash64(hash64(query.seeds) ^ query.time)
        score = hash64(key.unsqueeze(1) ^ hash64(remembered.times)).to(torch.float64)
        return choose(score, query, remembered, k, self.exclusion, "recent")


@dataclass(frozen=True)
class NoRetrieval:
    """No frame at all."""

    def __call__(self, query: Query, remembered: Remembered, k: int) -> Retrieved:
        b = len(query.time)
        nothing = torch.zeros(b, k, dtype=torch.int64, device=query.time.device)
        return Retrieved(nothing, nothing.bool(), torch.full((b, k), _NEVER, device=query.time.device))


@dataclass(frozen=True)
class Frustum:
    """What a camera sees: a pyramid about its axis."""

    horizontal: float = math.pi / 2
    """Field of view in radians."""
    vertical: float = 2 * math.atan(0.75)
    """Field of view in radians."""
    reach: float = 480.0
    """How far it sees, in world units."""

    def holds(self, poses: Tensor, points: Tensor) -> Tensor:
        """Which points (B, M, 3) are seen from which poses (B, N, 5): (B, N, M) bool."""
        axes = camera_axes(poses)
        local = axes @ points.transpose(-1, -2).unsqueeze(1) - axes @ poses[..., :3].unsqueeze(-1)
        ahead, left, up = local.unbind(2)
        return (
            (ahead > 0)
            & (left.abs() <= ahead * math.tan(self.horizontal / 2))
            & (up.abs() <= ahead * math.tan(self.vertical / 2))
            & (local.square().sum(2) <= self.reach**2)
        )


@dataclass(frozen=True)
class Coverage:
    """WorldMem's greedy choice: each frame should show most of what the query sees and no earlier choice showed.

    Points are drawn in a ball around the query, the same ones for every world; those the query sees are to be
    covered. A frame scores the share of them that it sees and that is still uncovered, minus ``age_penalty`` times its
    age over the oldest frame's.
    """

    view: Frustum = Frustum()
    radius: float = 480.0
    points: int = 256
    age_penalty: float = 0.2
    exclusion: int = 0

    def __call__(self, query: Query, remembered: Remembered, k: int) -> Retrieved:
        seen = visible(query, remembered)
        points = query.pose[:, None, :3] + self.radius * ball(self.points, query.pose.device)
        wanted = self.view.holds(query.pose.unsqueeze(1), points).squeeze(1)
        shown = self.view.holds(remembered.poses, points).to(query.pose.dtype)
        age = (query.time.unsqueeze(1) - remembered.times).to(query.pose.dtype)
        oldest = torch.nn.functional.pad(age.masked_fill(~seen, 0), (0, 1), value=1).amax(1, keepdim=True)
        penalty = self.age_penalty * age / oldest
        total = wanted.sum(1, keepdim=True).clamp(min=1)
        uncovered = wanted.to(query.pose.dtype)
        left = seen & ~recent(query, remembered, self.exclusion)
        columns, valid, scores = [seen[:, :0].to(torch.int64)], [seen[:, :0]], [penalty[:, :0]]
        for _ in range(min(k, remembered.exist.shape[1])):
            gain = (shown @ uncovered.unsqueeze(-1)).squeeze(-1) / total - penalty
            best = best_first(gain.masked_fill(~left, _NEVER), 1)
            columns.append(best)
            valid.append(left.gather(1, best))
            scores.append(gain.gather(1, best).where(valid[-1], gain.new_tensor(_NEVER)))
            picked = shown.gather(1, best.unsqueeze(-1).expand(-1, -1, self.points)).squeeze(1) * valid[-1]
            uncovered = uncovered * (1 - picked)
            left = left.scatter(1, best, False)
        return padded(torch.cat(columns, 1), torch.cat(valid, 1), torch.cat(scores, 1), k)


@dataclass(frozen=True)
class ViewOverlap:
    """WorldPlay's spatial part: the chunks that share most of the query's view, and the first chunk as a sink.

    The share is measured on points of a ball around the query that the query sees. Chunks are ``chunk`` frames in a
    row; the sink's come first, then chunk after chunk, oldest frame first within each.
    """

    view: Frustum = Frustum()
    radius: float = 480.0
    points: int = 256
    chunk: int = 4
    sink: bool = True
    exclusion: int = 0

    def __call__(self, query: Query, remembered: Remembered, k: int) -> Retrieved:
        seen = visible(query, remembered)
        points = query.pose[:, None, :3] + self.radius * ball(self.points, query.pose.device)
        wanted = self.view.holds(query.pose.unsqueeze(1), points)
        overlap = (self.view.holds(remembered.poses, points) & wanted).sum(-1) / wanted.sum(-1).clamp(min=1)
        number = (seen.cumsum(1) - 1).clamp(min=0)
        chunk = torch.div(number, self.chunk, rounding_mode="floor")
        n = seen.shape[1]
        chunks = -(-n // self.chunk)
        zeros = overlap.new_zeros(len(seen), max(1, chunks), dtype=torch.float64)
        late = recent(query, remembered, self.exclusion) & seen
        size = zeros.scatter_add(1, chunk, seen.to(torch.float64))
        share = zeros.scatter_add(1, chunk, overlap.to(torch.float64) * seen) / size.clamp(min=1)
        share = share.masked_fill(size == 0, _NEVER)
        # Chunks that reach into the excluded steps are used after all others, rather than none.
        excluded = zeros.scatter_add(1, chunk, late.to(torch.float64)) > 0
        order = best_first(share, share.shape[1])
        order = order.gather(1, excluded.gather(1, order).to(torch.uint8).sort(dim=1, stable=True)[1])
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).to(order).expand_as(order))
        if self.sink:
            rank[:, 0] = -1
        key = rank.gather(1, chunk) * self.chunk + number % self.chunk
        key = key.masked_fill(~seen, torch.iinfo(torch.int64).max)
        columns = key.argsort(1)[:, :k]
        valid = seen.gather(1, columns)
        score = share.gather(1, chunk).gather(1, columns).masked_fill(~valid, _NEVER)
        return padded(columns, valid, score, k)


STRATEGIES: dict[str, Strategy] = {
    "worldpack": WorldPack(),
    "worldpack-printed": WorldPack.printed(),
    "coverage": Coverage(),
    "view_overlap": ViewOverlap(),
    "nearest": Nearest(),
    "random": Random(),
    "none": NoRetrieval(),
}
"""Strategies by name, with constants for DoomRooms."""


def strategy_named(name: str) -> Strategy:
    """The strategy of that name, with other constants where some are given: ``"worldpack:sigma_along=80,exclusion=0"``.

    Raises:
        ConfigError: there is none, it has no such constant, or a value is not of its kind.
    """
    name, _, given = name.partition(":")
    if name not in STRATEGIES:
        raise ConfigError(f"Unknown retrieval {name!r}; choose one of {', '.join(STRATEGIES)}.")
    strategy: Any = STRATEGIES[name]
    values = {f.name: getattr(strategy, f.name) for f in fields(strategy)}
    changed = {}
    for setting in filter(None, given.split(",")):
        key, _, value = setting.partition("=")
        kind = type(values.get(key))
        try:
            if kind not in (bool, int, float, str):
                raise ValueError
            changed[key] = value == "True" if kind is bool else kind(value)
        except ValueError:
            raise ConfigError(
                f"Retrieval {name!r} has no setting {setting!r}; its constants are "
                f"{', '.join(f'{k}={v}' for k, v in values.items() if isinstance(v, int | float | str)) or 'none'}."
            ) from None
    chosen: Strategy = replace(strategy, **changed)
    return chosen


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Products (...) of vectors (..., 3): three additions, many times faster than a sum over so short an axis."""
    x, y, z = (a * b).unbind(-1)
    return x + y + z


def visible(query: Query, remembered: Remembered) -> Tensor:
    """(B, N) which frames exist and are from before the query's time and the steps it skips."""
    return remembered.exist & (remembered.times < (query.time - query.skip).unsqueeze(1))


def recent(query: Query, remembered: Remembered, steps: int) -> Tensor:
    """(B, N) which frames are from the latest ``steps`` steps before the query."""
    return remembered.times >= (query.time - steps).unsqueeze(1)


def best_first(score: Tensor, k: int) -> Tensor:
    """Columns (B, k) of the greatest scores (B, N), greatest first and of equals the newest (rightmost) first."""
    return score.sort(dim=1, stable=True)[1][:, max(0, score.shape[1] - k) :].flip(1)


def choose(score: Tensor, query: Query, remembered: Remembered, k: int, exclusion: int, mode: Exclusion) -> Retrieved:
    """The k best visible frames by ``score`` (B, N), under an exclusion window.

    Frames inside the window come after all frames outside it, so that a short history is used rather than none.
    """
    seen = visible(query, remembered)
    k_there = min(k, score.shape[1])
    # A frame may be seen and yet score minus infinity: it still comes before what is not there.
    score = score.clamp(min=torch.finfo(score.dtype).min).masked_fill(~seen, _NEVER)
    if mode == "spacing":
        columns, valid = _spaced(score, seen, remembered.times, k_there, exclusion)
    else:
        columns = best_first(score, score.shape[1] if exclusion else k_there)
        if exclusion:
            # Three classes, in order: outside the window, inside it, not there.
            rank = recent(query, remembered, exclusion).to(torch.uint8).masked_fill(~seen, 2)
            columns = columns.gather(1, rank.gather(1, columns).sort(dim=1, stable=True)[1])[:, :k_there]
        valid = seen.gather(1, columns)
    return padded(columns, valid, score.gather(1, columns), k)


def _spaced(score: Tensor, seen: Tensor, times: Tensor, k: int, spacing: int) -> tuple[Tensor, Tensor]:
    """Greedy choices at least ``spacing`` steps apart, then the best of the rest; and which of the k there are."""
    left, free = seen.clone(), seen.clone()
    columns, valid = [score[:, :0].to(torch.int64)], [seen[:, :0]]
    for _ in range(k):
        allowed = torch.where(free.any(1, keepdim=True), free, left)
        best = best_first(score.masked_fill(~allowed, _NEVER), 1)
        columns.append(best)
        valid.append(left.gather(1, best))
        left = left.scatter(1, best, False)
        free = free & left & ((times - times.gather(1, best)).abs() >= spacing)
    return torch.cat(columns, 1), torch.cat(valid, 1)


def padded(columns: Tensor, valid: Tensor, score: Tensor, k: int) -> Retrieved:
    """Choices (B, ≤ k) filled up to k with nothing."""
    columns = columns * valid
    if missing := k - columns.shape[1]:
        pad, fill = (0, missing), torch.nn.functional.pad
        columns, valid, score = fill(columns, pad), fill(valid, pad), fill(score, pad, value=_NEVER)
    return Retrieved(columns, valid, score)


def ball(n: int, device: torch.device | str = "cpu") -> Tensor:
    """(n, 3) float64 points drawn evenly in the unit ball, always the same."""
    one = torch.ones(1, dtype=torch.int64)
    draws = uniform(one, one, (n, 3), stream=99)[0].to(torch.float64)
    up = 2 * draws[:, 0] - 1
    turn = 2 * math.pi * draws[:, 1]
    flat = (1 - up.square()).sqrt()
    direction = torch.stack([flat * turn.cos(), flat * turn.sin(), up], 1)
    return (direction * draws[:, 2:].pow(1 / 3)).to(device)
