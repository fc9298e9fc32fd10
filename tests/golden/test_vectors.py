"""The golden inputs are drawn again: other numbers must not pass for them."""

import pytest

from .vectors import drawn


def test_other_numbers_are_refused() -> None:
    row = {"name": "in.x", "shape": [2], "scale": 1.0, "shift": 0.0, "sha256": "0" * 64}
    with pytest.raises(AssertionError, match=r"in\.x: torch .* draws other numbers here for seed 11"):
        drawn([{"seed": 11, "draws": [row]}])
