"""The structure of a small classifier's Fisher, against Jacobians and dense inverses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory import losses
from ngd_theory.errors import InputError
from ngd_theory.fisher import kronecker
from ngd_theory.networks import linearize, sparse_init
from ngd_theory.optim import structure as st

GAMMA = 0.05


@pytest.fixture(scope="module")
def network():
    return st.small_digits_network((9, 4, 4, 4, 5, 3))


@pytest.fixture(scope="module")
def setting(network):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 9)))
    return sparse_init(network, jax.random.key(0), num_connections=4), x


@pytest.fixture(scope="module")
def found(network, setting):
    params, x = setting
    return st.fisher_structure(network, params, x, damping=GAMMA)


def parts(structure, whole):
    """Blocks (i, j) of a whole matrix."""
    ends = np.cumsum([0, *structure.sizes])
    depth = len(structure.sizes)
    return {
        (i, j): whole[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]
        for i in range(depth)
        for j in range(depth)
    }


def middle(structure, whole):
    ends = np.cumsum([0, *structure.sizes])
    return whole[ends[1] : ends[-2], ends[1] : ends[-2]]


def check(structure, name, whole):
    """Entries, means and norms of a matrix are those of ``whole``."""
    np.testing.assert_allclose(
        structure.dense[name], middle(structure, whole), rtol=1e-7, atol=1e-8 * np.abs(whole).max()
    )
    for (i, j), block in parts(structure, whole).items():
        scale = {"rtol": 1e-7, "atol": 1e-8 * np.abs(whole).max()}
        np.testing.assert_allclose(structure.means[name][i, j], np.abs(block).mean(), **scale)
        np.testing.assert_allclose(structure.norms[name][i, j], np.linalg.norm(block), **scale)


def autodiff_fisher(network, params, x):
    """``J^T Lambda J / N`` from Jacobians; a layer's parameters are its (P, M) matrix row by row."""
    outputs = np.asarray(network.apply(params, x))
    jacobian = jax.jacrev(lambda p: network.apply(p, x))(params)
    columns = np.concatenate(
        [
            np.asarray(layer[key]).reshape(*outputs.shape, -1)
            for layer in jacobian
            for key in ("weight", "bias")
        ],
        axis=2,
    )
    p = np.asarray(jax.nn.softmax(outputs))
    lam = np.einsum("nc,cd->ncd", p, np.eye(p.shape[1])) - np.einsum("nc,nd->ncd", p, p)
    return np.einsum("ncp,ncd,ndq->pq", columns, lam, columns, optimize=True) / len(x)


def dense_tilde(network, params, x, gamma):
    """F-tilde with sums over samples and targets written out, damped."""
    lin = linearize(network, params, x)
    root = np.asarray(losses.CROSS_ENTROPY.fisher_root(lin.outputs))
    a = [np.asarray(layer.inputs)[:, 0] for layer in lin.layers]
    b = [np.einsum("nck,ncm->nkm", root, layer.sensitivities[:, :, 0]) for layer in lin.layers]

    def block(i, j):
        first, second = a[i].T @ a[j] / len(x), np.einsum("nkm,nkl->ml", b[i], b[j]) / len(x)
        if i == j and gamma:
            pi = np.sqrt(np.trace(first) / len(first) / (np.trace(second) / len(second)))
            first, second = (
                first + pi * gamma * np.eye(len(first)),
                second + gamma / pi * np.eye(len(second)),
            )
        return np.kron(first, second)

    return np.block([[block(i, j) for j in range(len(a))] for i in range(len(a))])


def test_the_exact_fisher_is_that_of_autodiff(network, setting, found):
    check(found, "exact", autodiff_fisher(network, *setting))


def test_f_tilde_and_its_inverse_are_those_of_dense_matrices(network, setting, found):
    check(found, "kronecker", dense_tilde(network, *setting, 0))
    damped = dense_tilde(network, *setting, GAMMA)
    check(found, "kronecker-damped", damped)
    check(found, "kronecker-inverse", np.linalg.inv(damped))


def test_the_exact_fisher_is_damped_by_as_much_as_f_tilde(network, setting, found):
    added = dense_tilde(network, *setting, GAMMA) - dense_tilde(network, *setting, 0)
    check(found, "exact-inverse", np.linalg.inv(autodiff_fisher(network, *setting) + added))


def test_f_breve_and_f_hat_are_the_inverses_of_their_inverses(network, setting, found):
    damped = dense_tilde(network, *setting, GAMMA)
    blocks, sizes = parts(found, damped), found.sizes
    depth = len(sizes)
    diagonal = [[blocks[i, j] * (i == j) for j in range(depth)] for i in range(depth)]
    check(found, "block-diagonal", np.block(diagonal))
    check(found, "block-diagonal-inverse", np.linalg.inv(np.block(diagonal)))
    # F-hat^-1 = Xi^T diag(S^-1) Xi with dense blocks.
    xi, inner = np.eye(sum(sizes)), np.zeros((sum(sizes),) * 2)
    for i in range(depth):
        remainder = blocks[i, i]
        if i < depth - 1:
            psi = blocks[i, i + 1] @ np.linalg.inv(blocks[i + 1, i + 1])
            parts(found, xi)[i, i + 1][:] = -psi
            remainder = remainder - psi @ blocks[i, i + 1].T
        parts(found, inner)[i, i][:] = np.linalg.inv(remainder)
    inverse = xi.T @ inner @ xi
    check(found, "block-tridiagonal-inverse", inverse)
    check(found, "block-tridiagonal", np.linalg.inv(inverse))


def test_f_hat_is_f_tilde_on_three_diagonals_and_its_inverse_zero_elsewhere(found):
    depth = len(found.sizes)
    far = np.abs(np.subtract.outer(range(depth), range(depth))) > 1
    errors = found.pair_errors("block-tridiagonal")
    assert errors[~far].max() < 1e-10 < errors[far].min()
    np.testing.assert_array_equal(found.means["block-tridiagonal-inverse"][far], 0)
    assert np.isnan(
        replace(found, norms={**found.norms, "kronecker-damped": np.zeros((5, 5))}).pair_errors(
            "block-diagonal"
        )
    ).all()


def test_f_hat_is_much_nearer_than_f_breve_and_the_inverse_nearly_tridiagonal(found):
    for end in ("", "-inverse"):
        assert found.error(f"block-tridiagonal{end}") < 0.5 * found.error(f"block-diagonal{end}")
    assert found.error("block-tridiagonal") < 0.25 * found.error("block-diagonal")
    share = found.off_tridiagonal_share
    for layers in (None, range(5)):
        assert share("kronecker-inverse", layers) < 0.5 * share("kronecker-damped", layers)
    assert share("block-diagonal") == 0


def test_errors_are_those_of_the_entries(found):
    for name, reference in st.REFERENCES.items():
        apart = np.linalg.norm(found.dense[name] - found.dense[reference])
        expected = apart / np.linalg.norm(found.dense[reference])
        np.testing.assert_allclose(found.error(name), expected, rtol=1e-9)
    assert found.middle == (1, 2, 3)


def test_the_network_is_the_papers():
    network = st.small_digits_network()
    sizes = [size.num_inputs * size.num_units for size in network.layer_sizes]
    assert sizes == [257 * 20, 420, 420, 420, 420, 210] and sum(sizes) == 7030
    params = sparse_init(network, jax.random.key(1))
    h = x = np.random.default_rng(0).normal(size=(3, 256))
    for layer in params[:-1]:
        h = np.tanh(h @ np.asarray(layer["weight"]) + np.asarray(layer["bias"]))
    expected = h @ np.asarray(params[-1]["weight"]) + np.asarray(params[-1]["bias"])
    np.testing.assert_allclose(
        network.apply(params, jnp.asarray(x)), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("size", "new_size"), [(28, 16), (6, 3), (3, 5), (4, 4)])
def test_resampling_takes_means_over_areas(size, new_size):
    matrix = st.area_resampling(size, new_size)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(matrix.sum(0), new_size / size)
    # The integral of a piecewise constant function, exactly: from a common refinement.
    fine = np.kron(np.eye(new_size), np.full((1, size), 1 / size)) @ np.kron(
        np.eye(size), np.ones((new_size, 1))
    )
    np.testing.assert_allclose(matrix, fine, atol=1e-15)


def test_small_digits_are_balanced_images():
    x, y = st.small_digits(50, seed=1)
    assert x.shape == (50, 256) and x.min() >= 0 and 0.5 < x.max() <= 1
    np.testing.assert_array_equal(y.sum(0), 5)
    np.testing.assert_array_equal(x, st.small_digits(50, seed=1)[0])


@pytest.mark.slow
def test_rows_are_deterministic_and_numbers():
    once, again = (
        st.structure_rows(num_images=100, until=0.9, widths=(256, 3, 3, 10)) for _ in range(2)
    )
    assert [r.keys() for r in once] == [r.keys() for r in again]
    np.testing.assert_allclose(*([r["value"] for r in t] for t in (once, again)), rtol=1e-9)
    assert {r["matrix"] for r in once} == set(st.MATRICES)
    assert all(np.isfinite(r["value"]) for r in once)
    assert 0 < once[0]["train_loss"] <= 0.9 * np.log(10) and once[0]["steps"] > 0
    keys = [(r["matrix"], r["layer"], r["other"], r["quantity"]) for r in once]
    assert len(set(keys)) == len(keys)


def test_bad_input_is_refused(network, setting):
    params, x = setting
    with pytest.raises(InputError, match="damping"):
        st.fisher_structure(network, params, x, damping=0.0)
    shallow = st.small_digits_network((9, 3, 2))
    with pytest.raises(InputError, match="2 layers"):
        st.fisher_structure(shallow, shallow.init(jax.random.key(0)), x)
    with pytest.raises(InputError, match="widths"):
        st.small_digits_network((9,))
    single = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    with pytest.raises(InputError, match="float64"):
        st.fisher_structure(network, single, x.astype(jnp.float32))


def test_f_tilde_is_that_of_the_fisher_package(network, setting, found):
    params, x = setting
    lin = linearize(network, params, x)
    root = losses.CROSS_ENTROPY.fisher_root(lin.outputs)
    layers = [
        replace(y, sensitivities=jnp.einsum("nck,nctm->nktm", root, y.sensitivities))
        for y in lin.layers
    ]
    check(found, "kronecker", np.asarray(kronecker.kronecker_fisher(layers).dense()))
