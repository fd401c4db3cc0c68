"""Packing: the budget is what the grid says it is."""

from __future__ import annotations

import numpy as np
import pytest

from worldloop.errors import ConfigError
from worldloop.world_models.memory.packing import PACKINGS, Packing, cache_pool, packing_named, pooled_tokens


def test_the_reference_costs_what_the_paper_says() -> None:
    reference = packing_named("reference")
    assert reference.frames == 19
    assert round(reference.budget((22, 40)), 3) == 2.841
    assert reference.tokens((22, 40)) == 880 + 3 * 240 + 15 * 60


@pytest.mark.parametrize("grid", [(6, 8), (22, 40), (5, 7)])
@pytest.mark.parametrize("unit", [2, 4])
def test_pooled_tokens_are_counted_on_a_padded_picture(grid: tuple[int, int], unit: int) -> None:
    picture = np.zeros([-(-side // unit) * unit for side in grid])
    for pool in (2, 4):
        if pool <= unit:
            assert pooled_tokens(grid, pool, unit) == picture[::pool, ::pool].size
    assert pooled_tokens(grid, 1, unit) == np.zeros(grid).size


def test_old_keys_and_values_shrink_about_sixfold() -> None:
    share = np.mean([1 / cache_pool(age) ** 2 for age in range(180)])
    assert 5.5 < 1 / share < 6.5
    assert [cache_pool(age) for age in (0, 1, 2, 18, 19)] == [1, 4, 2, 1, 4]


def test_wrong_packings_are_refused() -> None:
    for recent, retrieved in (((), ()), ((3,), ()), ((1,), (0,))):
        with pytest.raises(ConfigError, match="pool of 1, 2 or 4"):
            Packing(recent, retrieved)
    with pytest.raises(ConfigError, match=", ".join(PACKINGS)):
        packing_named("none")
