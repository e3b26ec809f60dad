import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngd_theory.data import DataError
from ngd_theory.data.selection import select

GROUPS = [np.arange(0, 30, 3), np.arange(1, 30, 3), np.arange(2, 30, 3)]
NAMES = ("class a", "class b", "class c")


def choose(groups=GROUPS, test_groups=None, *, num_train=9, num_test=6, seed=0):
    return select(
        groups,
        test_groups,
        num_train=num_train,
        num_test=num_test,
        seed=seed,
        names=NAMES[: len(groups)],
        where="here",
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(0, 8), st.integers(0, 100))
def test_rows_are_distinct_balanced_and_disjoint(num_train, num_test, seed):
    chosen = choose(num_train=num_train, num_test=num_test, seed=seed)
    for rows, count in ((chosen.train, num_train), (chosen.test, num_test)):
        assert len(set(rows.tolist())) == len(rows) == count
        assert np.ptp(np.bincount(rows % 3, minlength=3)) <= 1
    assert not set(chosen.train.tolist()) & set(chosen.test.tolist())
    assert set(chosen.reference.tolist()) == set(range(30)) - set(chosen.test.tolist())


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    np.testing.assert_array_equal(choose(seed=3).train, choose(seed=3).train)
    np.testing.assert_array_equal(choose(seed=3).test, choose(seed=3).test)
    assert (choose(seed=3).train != choose(seed=4).train).any()


def test_more_training_rows_extend_fewer_and_test_rows_do_not_disturb_them():
    np.testing.assert_array_equal(choose(num_train=12).train[:9], choose(num_train=9).train)
    np.testing.assert_array_equal(choose(num_test=0).train, choose(num_test=6).train)


def test_a_test_pool_of_its_own_leaves_the_training_pool_whole():
    chosen = choose(test_groups=[np.arange(4), np.arange(4, 8), np.arange(8, 12)], num_train=30)
    assert sorted(chosen.train) == list(range(30)) == chosen.reference.tolist()
    assert set(chosen.test.tolist()) <= set(range(12))


def test_all_rows_of_a_pool_can_be_drawn():
    chosen = choose(num_train=24, num_test=6)
    assert sorted([*chosen.train, *chosen.test]) == list(range(30))


@pytest.mark.parametrize(("sizes", "limit"), [((5, 3), 7), ((3, 5), 6), ((4, 4), 8)])
def test_the_limit_named_is_the_largest_request_that_succeeds(sizes, limit):
    groups = [np.arange(sizes[0]), np.arange(100, 100 + sizes[1])]
    assert len(choose(groups, num_train=limit, num_test=0).train) == limit
    with pytest.raises(DataError, match=f"ask for at most {limit}"):
        choose(groups, num_train=limit + 1, num_test=0)


def test_too_many_test_rows_say_what_the_training_rows_took():
    with pytest.raises(DataError, match=r"test rows .*after 24 training rows.* only 6"):
        choose(num_train=24, num_test=7)


def test_an_empty_class_is_named():
    with pytest.raises(DataError, match="no training rows of class b"):
        choose([np.arange(5), np.arange(0)], num_train=2)
    with pytest.raises(DataError, match="no test rows of class a"):
        choose(test_groups=[np.arange(0), np.arange(3), np.arange(3)], num_test=2)
