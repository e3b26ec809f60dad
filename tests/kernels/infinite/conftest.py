"""Float64 for every test of the limit; samples with duplicates, opposites and near-parallels."""

import jax
import pytest


@pytest.fixture(autouse=True)
def double_precision():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def x():
    x = jax.random.normal(jax.random.key(0), (6, 5), "float64")
    return x.at[3].set(x[0]).at[4].set(-x[1]).at[5].set(1.5 * x[2])


@pytest.fixture
def other():
    return 0.7 * jax.random.normal(jax.random.key(1), (4, 5), "float64")
