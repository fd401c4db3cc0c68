"""Camera geometry: what attention sees depends on relative cameras alone, and rays go where pixels are."""

from __future__ import annotations

import math

import numpy as np
import torch

from worldloop.world_models.pose import camera_axes
from worldloop.world_models.prediction.camera import (
    invert_projections,
    plucker_rays,
    projections,
    prope_attention,
    token_rays,
)

FOV, ASPECT, SCALE = math.pi / 2, 4 / 3, 100.0


def random_poses(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    low, high = [-300, -300, 0, -math.pi, -1], [300, 300, 80, math.pi, 1]
    return torch.from_numpy(rng.uniform(low, high, (*shape, 5)))


def moved_world(poses: torch.Tensor, yaw: float, shift: list[float]) -> torch.Tensor:
    """The same cameras after the whole world was turned about the vertical and shifted."""
    c, s = math.cos(yaw), math.sin(yaw)
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    place = poses[..., :3] @ turn.T + torch.tensor(shift, dtype=torch.float64)
    return torch.cat([place, poses[..., 3:4] + yaw, poses[..., 4:]], -1)


def test_projection_agrees_with_a_pinhole_camera() -> None:
    rng = np.random.default_rng(0)
    pose = random_poses(rng)
    point = rng.uniform(-500, 500, 3)
    p = projections(pose, torch.zeros(3), FOV, ASPECT, SCALE).double()
    left, up, forward, one = (p @ torch.tensor([*point / SCALE, 1.0], dtype=torch.float64)).tolist()
    along, across, above = camera_axes(pose).numpy() @ (point - pose[:3].numpy())
    assert one == 1
    np.testing.assert_allclose(left / forward, across / along / math.tan(FOV / 2), rtol=1e-4)
    np.testing.assert_allclose(up / forward, above / along / math.tan(FOV / 2) * ASPECT, rtol=1e-4)


def test_the_inverse_inverts() -> None:
    p = projections(random_poses(np.random.default_rng(1), 7), torch.zeros(3), FOV, ASPECT, SCALE)
    torch.testing.assert_close(invert_projections(p) @ p, torch.eye(4).expand(7, 4, 4), atol=2e-5, rtol=0)


def attended(poses: torch.Tensor, origin: torch.Tensor, qkv: list[torch.Tensor]) -> torch.Tensor:
    p = projections(poses, origin, FOV, ASPECT, SCALE)
    return prope_attention(*qkv, p[:, :3], p[:, 3:])


def test_prope_does_not_notice_where_the_world_is() -> None:
    rng = np.random.default_rng(2)
    poses = random_poses(rng, 2, 8)
    torch.manual_seed(0)
    qkv = [torch.randn(2, n, 2, 8) for n in (3, 5, 5)]
    first = attended(poses, poses[:, :1, :3], qkv)
    for yaw, shift in ((0.7, [0, 0, 0]), (-2.5, [4e5, -3e5, 10])):
        other = moved_world(poses, yaw, shift)
        torch.testing.assert_close(attended(other, other[:, :1, :3], qkv), first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(attended(poses, poses[:, 4:5, :3], qkv), first, atol=1e-3, rtol=1e-3)
    assert (attended(random_poses(rng, 2, 8), poses[:, :1, :3], qkv) - first).abs().max() > 0.1


def test_equal_cameras_give_plain_attention() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, 2, 8) for _ in range(3))
    pose = random_poses(np.random.default_rng(3), 1, 1).expand(1, 8, 5)
    expected = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    p = projections(pose, pose[:, :1, :3], FOV, ASPECT, SCALE)
    torch.testing.assert_close(prope_attention(q, k, v, p[:, :4], p[:, 4:]), expected, atol=1e-4, rtol=1e-4)


def test_rays_pass_through_their_tokens() -> None:
    rays = token_rays((6, 8), FOV).view(6, 8, 3)
    pictured = rays[..., :2] / rays[..., 2:] / torch.tensor([math.tan(FOV / 2), math.tan(FOV / 2) * 6 / 8])
    np.testing.assert_allclose(pictured[0, :, 0], 1 - (np.arange(8) + 0.5) / 4, atol=1e-12)
    np.testing.assert_allclose(pictured[:, 0, 1], 1 - (np.arange(6) + 0.5) / 3, atol=1e-12)
    pooled = token_rays((6, 8), FOV, 2)
    assert pooled.shape == (12, 3)
    whole = pictured.view(3, 2, 4, 2, 2).mean((1, 3)).flatten(0, 1)
    shown = pooled[:, :2] / pooled[:, 2:] / torch.tensor([math.tan(FOV / 2), math.tan(FOV / 2) * 6 / 8])
    np.testing.assert_allclose(shown, whole, atol=1e-12)


def test_plucker_rays_are_the_same_line_whoever_looks() -> None:
    """A point on the ray, seen by the viewer, satisfies p × d = moment."""
    rng = np.random.default_rng(4)
    frame, viewer = random_poses(rng), random_poses(rng)
    rays = token_rays((3, 4), FOV)
    lines = plucker_rays(frame, viewer, rays, SCALE).double().numpy()
    forward, left, up = camera_axes(frame).numpy()
    along, across, above = camera_axes(viewer).numpy()
    for ray, line in zip(rays.numpy(), lines, strict=True):
        point = frame[:3].numpy() + 70 * (ray[0] * left + ray[1] * up + ray[2] * forward) - viewer[:3].numpy()
        seen = np.array([across @ point, above @ point, along @ point]) / SCALE
        np.testing.assert_allclose(np.cross(seen, line[3:]), line[:3], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(line[3:]), 1, atol=1e-5)
