"""Which rows of a source become the training and the test set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ngd_theory.data.errors import DataError


@dataclass(frozen=True, eq=False)
class Selection:
    """Row numbers of the training and test rows in their pools.

    ``reference`` are all rows of the training pool that may inform the preprocessing: the chosen
    classes, without the test rows. Where a source has no test pool, ``test`` counts in the
    training pool.
    """

    train: Int[np.ndarray, " N"]
    test: Int[np.ndarray, " N_test"]
    reference: Int[np.ndarray, " N_ref"]


def select(
    groups: Sequence[Int[np.ndarray, "..."]],
    test_groups: Sequence[Int[np.ndarray, "..."]] | None,
    *,
    num_train: int,
    num_test: int,
    seed: int,
    names: Sequence[str],
    where: str,
) -> Selection:
    """Draw balanced, disjoint training and test rows without replacement.

    Row i is of group i modulo the number of groups, so counts differ by at most one, any prefix
    is balanced, and a larger ``num_train`` extends a smaller one of the same seed.

    Parameters
    ----------
    groups : sequence of (n,) int arrays
        Row numbers of the training pool, one array per class (one array in all for regression).
    test_groups : like ``groups``, optional
        The same for the source's own test pool; None to draw the test rows from the remaining rows
        of the training pool.
    num_train, num_test, seed : int
    names : sequence of str
        Names of the groups, for errors.
    where : str
        The source, for errors.

    Raises
    ------
    DataError
        If a group is empty or too small.
    """
    shuffled = [_shuffle(rows, seed, 0, k) for k, rows in enumerate(groups)]
    train = _deal(shuffled, num_train, "training", names, where)
    if test_groups is not None:
        pools = [_shuffle(rows, seed, 1, k) for k, rows in enumerate(test_groups)]
        test = _deal(pools, num_test, "test", names, where)
        return Selection(train, test, np.sort(np.concatenate(groups)))
    used = [len(range(k, num_train, len(shuffled))) for k in range(len(shuffled))]
    left = [rows[count:] for rows, count in zip(shuffled, used, strict=True)]
    test = _deal(left, num_test, "test", names, f"{where} (after {num_train} training rows)")
    return Selection(train, test, np.setdiff1d(np.concatenate(groups), test))


def _shuffle(rows: np.ndarray, seed: int, stream: int, group: int) -> np.ndarray:
    return np.random.default_rng((seed, stream, group)).permutation(rows)


def _deal(
    pools: Sequence[np.ndarray], num_rows: int, kind: str, names: Sequence[str], where: str
) -> np.ndarray:
    if num_rows == 0:
        return np.zeros(0, dtype=np.int64)
    for name, rows in zip(names, pools, strict=True):
        if len(rows) == 0:
            fewer = "take fewer training or test rows, or " if kind == "test" else ""
            raise DataError(f"{where} has no {kind} rows of {name}; {fewer}name other classes")
    num_pools = len(pools)
    limit = min(len(rows) * num_pools + k for k, rows in enumerate(pools))
    if num_rows > limit:
        sizes = ", ".join(f"{name}: {len(r)}" for name, r in zip(names, pools, strict=True))
        raise DataError(
            f"{num_rows} balanced {kind} rows were asked for but {where} has only {limit} "
            f"({sizes}); ask for at most {limit}"
        )
    dealt = [pools[i % num_pools][i // num_pools] for i in range(num_rows)]
    return np.asarray(dealt, dtype=np.int64)
