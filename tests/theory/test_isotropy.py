"""The summary of a function-space map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError


def test_a_multiple_of_the_identity_has_no_dispersion():
    found = ngd.theory.isotropy(2.5 * jnp.eye(6))
    assert float(found.constant) == 2.5
    assert float(found.dispersion) == 0
    assert (float(found.min_eigenvalue), float(found.max_eigenvalue)) == (2.5, 2.5)


def test_dispersion_is_the_relative_frobenius_distance_from_the_mean_identity():
    rng = np.random.default_rng(0)
    k = rng.normal(size=(5, 5))
    k = k @ k.T
    found = ngd.theory.isotropy(jnp.asarray(k))
    alpha = np.trace(k) / 5
    expected = np.linalg.norm(k - alpha * np.eye(5)) / (alpha * np.sqrt(5))
    assert float(found.constant) == pytest.approx(alpha)
    assert float(found.dispersion) == pytest.approx(expected)
    # Equivalently: the coefficient of variation of the eigenvalues.
    eigenvalues = np.linalg.eigvalsh(k)
    assert float(found.dispersion) == pytest.approx(eigenvalues.std() / eigenvalues.mean())
    assert float(found.min_eigenvalue) == pytest.approx(eigenvalues[0])
    assert float(found.max_eigenvalue) == pytest.approx(eigenvalues[-1])


def test_dispersion_does_not_depend_on_scale_or_basis():
    rng = np.random.default_rng(1)
    k = rng.normal(size=(4, 4))
    k = k @ k.T
    q, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    one = ngd.theory.isotropy(jnp.asarray(k))
    other = ngd.theory.isotropy(jnp.asarray(3 * q @ k @ q.T))
    assert float(other.dispersion) == pytest.approx(float(one.dispersion))
    assert float(other.constant) == pytest.approx(3 * float(one.constant))


def test_isotropy_can_be_jitted():
    found = jax.jit(ngd.theory.isotropy)(jnp.eye(3))
    assert isinstance(found, ngd.theory.Isotropy)
    assert float(found.constant) == 1


@pytest.mark.parametrize("shape", [(2, 3), (4,)])
def test_only_a_square_map_has_an_isotropy(shape):
    # Without the annotations checked: the message is for users, who do not have the import hook.
    unchecked = getattr(ngd.theory.isotropy, "__wrapped__", ngd.theory.isotropy)
    with pytest.raises(InputError, match="square map, train x train"):
        unchecked(jnp.ones(shape))
