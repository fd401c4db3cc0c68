"""What the benchmark of imagination counts, against plain arithmetic."""

from __future__ import annotations

from statistics import median
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from worldloop.benchmarks import imagination
from worldloop.benchmarks.counting import counted
from worldloop.benchmarks.timing import interval


def test_a_product_is_two_operations_a_term_and_reads_and_writes_each_matrix_once() -> None:
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    work = counted(lambda: a @ b)
    assert (work.flops, work.bytes) == (2 * 3 * 5 * 7, 4 * (3 * 5 + 5 * 7 + 3 * 7))


def test_a_convolution_is_a_product_at_every_pixel() -> None:
    layer, picture = nn.Conv2d(4, 6, 3, padding=1), torch.rand(2, 4, 5, 8)
    assert counted(lambda: layer(picture)).flops == 2 * 2 * 5 * 8 * 6 * 4 * 9


def test_attention_counts_as_its_two_products() -> None:
    q, k = torch.rand(2, 3, 5, 8), torch.rand(2, 3, 11, 8)
    assert counted(lambda: F.scaled_dot_product_attention(q, k, k)).flops == 2 * (2 * 2 * 3 * 5 * 11 * 8)


def test_views_move_nothing_and_what_is_expanded_is_stored_once() -> None:
    x = torch.rand(4, 6)
    assert counted(lambda: x.t().unsqueeze(0)).bytes == 0
    assert counted(lambda: x[:1].expand(4, 6).clone()).bytes == 4 * (6 + 24)


def test_the_interval_of_a_median_holds_it_and_shrinks_with_more_turns() -> None:
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(400, generator=generator).tolist()
    few, wide = interval(many), interval(many[:20])
    assert few["low"] <= few["median"] == median(many) <= few["high"]
    assert few["high"] - few["low"] < 0.5 * (wide["high"] - wide["low"])
    # The standard error of a normal sample's median is 1.2533 / sqrt(n).
    assert few["high"] - few["low"] == pytest.approx(2 * 1.96 * 1.2533 / 20, rel=0.5)


def test_time_outside_a_world_is_what_its_calls_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(imagination, "time", SimpleNamespace(perf_counter=lambda: now))

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    class Slow:
        def imagine(self) -> None:
            pass_by(3)
            self.encode_state()

        def encode_state(self) -> None:
            pass_by(2)

        def render(self) -> None:
            pass_by(5)

    world = Slow()

    def work() -> None:
        world.imagine()
        pass_by(1)
        world.render()

    assert imagination.outside(world, work, repeats=3, seconds=100.0) == pytest.approx([0.1] * 3)  # type: ignore[arg-type]
    assert not vars(world)
