import numpy as np
import pytest

from ngd_theory.data import DataError
from ngd_theory.data.checks import require_count


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2)])
def test_whole_numbers_of_any_integer_type_count(value):
    count = require_count(value, "rows", 1)
    assert count == 2 and type(count) is int


@pytest.mark.parametrize("value", [0, -1, 2.5, 2.0, None, True, "2", float("nan")])
def test_everything_else_is_refused_by_name(value):
    with pytest.raises(DataError, match=r"rows is .*; give a whole number of at least 1"):
        require_count(value, "rows", 1)
