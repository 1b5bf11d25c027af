"""A synthetic estate of fifty regions: read, checked, priced and rendered in time that grows with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benches.estate import estate, through


@pytest.mark.timeout(240)
def test_fifty_regions_in_time_that_grows_with_the_resources(tmp_path: Path) -> None:
    through(estate(tmp_path / "warm", 2))
    small, few = through(estate(tmp_path / "ten", 10))
    large, many = through(estate(tmp_path / "fifty", 50))
    assert many > 4 * few
    assert large < 20
    # Every pair of regions is peered: resources grow faster than regions, and time no faster than they.
    assert large / small < 3 * many / few, f"{small:.2f} s for {few} resources, {large:.2f} s for {many}"
