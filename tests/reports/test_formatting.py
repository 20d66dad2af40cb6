import math

import pytest

from ffds.reports.formatting import Spread


@pytest.mark.parametrize(
    ("values", "mean", "std", "text"),
    [
        ((), None, None, "—"),
        ((40.0,), 40.0, None, "40.00"),
        ((0.0,), 0.0, None, "0.00"),
        ((40.0, 42.0), 41.0, math.sqrt(2), "41.00 ± 1.41"),
        ((1.0, 2.0, 6.0), 3.0, math.sqrt(7), "3.00 ± 2.65"),
        ((5.0, 5.0), 5.0, 0.0, "5.00 ± 0.00"),
    ],
)
def test_spread(values, mean, std, text):
    spread = Spread(values)
    assert spread.mean == mean
    assert spread.std == (None if std is None else pytest.approx(std))
    assert str(spread) == text
