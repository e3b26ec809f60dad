"""Growing mini-batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngd_theory.errors import InputError
from ngd_theory.optim import batch_sizes


@given(
    first=st.integers(1, 2000),
    growth=st.integers(1, 60000),
    num_steps=st.integers(2, 300),
    levels=st.integers(2, 12),
)
def test_sizes_grow_from_first_to_last_by_few_levels(first, growth, num_steps, levels):
    sizes = batch_sizes(first, first + growth, num_steps, levels=levels)
    assert len(sizes) == num_steps and all(type(size) is int for size in sizes)
    assert sizes[0] == first and sizes[-1] == first + growth
    assert sizes == sorted(sizes)
    assert len(set(sizes)) <= levels


def test_growth_is_exponential():
    sizes = batch_sizes(1000, 60000, 500, levels=500)
    exact = 1000 * 60 ** (np.arange(500) / 499)
    np.testing.assert_allclose(sizes, exact, atol=0.51)
    # Few levels are at most half a level off, in the logarithm.
    sizes = batch_sizes(1000, 60000, 500)
    assert len(set(sizes)) == 8
    assert np.abs(np.log(sizes / exact)).max() < np.log(60) / 7 / 2 + 1e-3


def test_equal_sizes_need_one_level_and_one_step():
    assert batch_sizes(5, 5, 3, levels=1) == [5, 5, 5]
    assert batch_sizes(5, 5, 1) == [5]
    assert batch_sizes(5, 9, 2) == [5, 9]


@pytest.mark.parametrize(
    ("first", "last", "num_steps", "levels", "message"),
    [
        (0, 5, 3, 2, "first is 0; it must be a whole number of at least 1"),
        (1, -5, 3, 2, "last is -5; it must be a whole number"),
        (1, 5, 0, 2, "num_steps is 0; it must be a whole number"),
        (1, 5, 3, 0, "levels is 0; it must be a whole number"),
        (6, 5, 3, 2, "last is 5; it must be at least first, 6"),
        (1, 5, 1, 2, "num_steps is 1; batches that grow from 1 to 5 need 2 or more"),
        (1, 5, 3, 1, "levels is 1; batches that grow from 1 to 5 need 2 or more"),
    ],
)
def test_bad_schedules_are_refused(first, last, num_steps, levels, message):
    with pytest.raises(InputError, match=message):
        batch_sizes(first, last, num_steps, levels=levels)
