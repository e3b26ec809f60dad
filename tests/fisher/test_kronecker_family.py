"""FOOF, output-only K-FAC, EKFAC and Shampoo: the law they come from, who is isotropic, and what they are not.

Dense references are in `dense.DenseFisher.family_preconditioner`; tests over all approximations take these too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, problem, relative_error
from dense import KRONECKER_FAMILY, DenseFisher, flatten, softmax_fisher

import ngd_theory as ngd
from ngd_theory.errors import InputError
from ngd_theory.fisher.law import kronecker_share, mean_share

CASES = [BY_NAME[name] for name in ("L3 C3 gelu bias", "L3 C1 erf, N>M", "L2 C3 tanh bias")]


def draw(width, num_samples, seed=0, activation="relu", output_dim=1, depth=3, unit=False):
    """A linearisation of a wide network at Gaussian inputs of 50 dimensions."""
    net = ngd.networks.mlp(50, [width] * (depth - 1), output_dim, activation)
    x = jax.random.normal(jax.random.key(100 + seed), (num_samples, 50))
    if unit:
        x = x * (50**0.5 / jnp.linalg.norm(x, axis=1, keepdims=True))
    return net, ngd.networks.linearize(net, net.init(jax.random.key(seed)), x)


def isotropy(approximation, lin):
    found = ngd.theory.isotropy(approximation.function_space_map(lin, 0.0))
    return float(found.constant), float(found.dispersion)


# --- The general law --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_kronecker_products_with_weights_have_the_map_of_the_law(seed):
    """``K_l = diag(1/(N alpha_n beta_nc))`` for weights that differ from sample to sample, from dense matrices."""
    rng = np.random.default_rng(seed)
    n, c, p, m = 5, 2, 9, 13
    a, delta = rng.normal(size=(n, p)), rng.normal(size=(n, c, m))
    alpha, beta = rng.uniform(0.1, 2, n), rng.uniform(0.1, 2, (n, c))
    first = (a.T * alpha) @ a
    second = np.einsum("nc,nci,ncj->ij", beta, delta, delta)
    j = np.einsum("nci,np->ncip", delta, a).reshape(n * c, -1)
    k = j @ np.kron(np.linalg.pinv(second), np.linalg.pinv(first)) @ j.T / n
    np.testing.assert_allclose(k, np.diag(1 / (n * alpha[:, None] * beta).ravel()), atol=1e-9)


def test_the_share_of_the_law_is_its_trace():
    net, lin = draw(64, 6, output_dim=2)
    for i, size in enumerate(net.layer_sizes):
        expected = float(isotropy_of_layer(ngd.fisher.KFAC(), lin, i).constant)
        assert mean_share(size, 6, 2) == pytest.approx(expected, rel=1e-9)
        # Twice the weights of the inputs, three times those of the sensitivities.
        scaled = kronecker_share(size, 6, 2, 2 / 6, 3 / 6)
        assert scaled == pytest.approx(expected / 6, rel=1e-9)


def isotropy_of_layer(approximation, lin, index):
    return ngd.theory.isotropy(approximation.layer_maps(lin, 0.0)[index])


def test_one_sided_maps_are_those_of_the_law():
    _, lin = draw(256, 6, output_dim=2)
    inputs = ngd.fisher.KFACInput().layer_maps(lin, 0.0)
    outputs = ngd.fisher.KFACOutput().layer_maps(lin, 0.0)
    for index, layer in enumerate(lin.layers):
        a, delta = np.asarray(layer.inputs)[:, 0], np.asarray(layer.sensitivities)[:, :, 0]
        blocks = np.zeros((6, 2, 6, 2))
        for i in range(6):
            blocks[i, :, i] = delta[i] @ delta[i].T
        np.testing.assert_allclose(inputs[index], blocks.reshape(12, 12), atol=1e-8)
        if index < 2:
            norms = np.repeat(np.sum(a**2, axis=1), 2)
            np.testing.assert_allclose(outputs[index], np.diag(norms), atol=1e-8)
    # The output layer of K-FAC's outputs alone: the kernel of its inputs over N.
    a = np.asarray(lin.layers[-1].inputs)[:, 0]
    np.testing.assert_allclose(outputs[2], np.kron(a @ a.T, np.eye(2)) / 6, atol=1e-8)


# --- Who is isotropic -------------------------------------------------------------------------------


def test_foof_has_alpha_l_and_disperses_as_the_root_of_the_width():
    dispersions = []
    for width in (128, 2048):
        found = np.array(
            [isotropy(ngd.fisher.KFACInput(), draw(width, 10, s)[1]) for s in (0, 1, 2)]
        )
        dispersions.append(found[:, 1].mean())
    constant = found[:, 0].mean()
    assert constant == pytest.approx(3, rel=0.05)
    assert np.log(dispersions[1] / dispersions[0]) / np.log(16) == pytest.approx(-0.5, abs=0.2)


def test_outputs_alone_are_isotropic_in_the_first_layer_for_inputs_of_one_norm():
    _, lin = draw(64, 10, unit=True)
    found = isotropy_of_layer(ngd.fisher.KFACOutput(), lin, 0)
    assert float(found.dispersion) < 1e-9
    _, lin = draw(64, 10)
    assert float(isotropy_of_layer(ngd.fisher.KFACOutput(), lin, 0).dispersion) > 0.05


@pytest.mark.parametrize(("num_samples", "output_dim"), [(12, 1), (12, 2), (24, 1)])
def test_ekfac_has_the_trace_of_kfac_and_disperses_by_two_over_n(num_samples, output_dim):
    found = []
    for width in (128, 512):
        _, lin = draw(width, num_samples, output_dim=output_dim)
        ekfac, kfac = (
            isotropy_of_layer(a, lin, 1) for a in (ngd.fisher.EKFAC(), ngd.fisher.KFAC())
        )
        assert float(ekfac.constant) == pytest.approx(float(kfac.constant), rel=1e-9)
        assert float(kfac.dispersion) < 1e-9
        found.append(float(ekfac.dispersion) * num_samples * output_dim**0.5)
    assert all(1.0 < each < 2.2 for each in found), found


def test_haar_eigenvectors_give_the_dispersion_of_ekfac():
    """``K[n,m] = sum_ij U_ni U_mi V_nj V_mj / sum_k U_ki^2 V_kj^2``: nothing of the spectra is in it."""
    rng = np.random.default_rng(0)
    n = 60
    u, v = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    weights = 1 / (u.T**2 @ v**2)
    k = np.einsum("ni,mi,nj,mj,ij->nm", u, u, v, v, weights, optimize=True)
    assert np.trace(k) / n == pytest.approx(n, rel=1e-9)
    dispersion = np.linalg.norm(k - n * np.eye(n)) / (n * n**0.5)
    assert n * dispersion == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("clustered", [False, True])
def test_the_map_of_ekfac_is_that_of_the_gram_matrices_eigenvectors(clustered):
    """Whose entries are not alike for inputs that are alike: the dispersion is then above that of random ones."""
    net, lin = draw(256, 24)
    if clustered:
        keys = jax.random.split(jax.random.key(7), 2)
        pairs = jnp.repeat(jax.random.normal(keys[0], (12, 50)), 2, axis=0)
        x = pairs + 0.1 * jax.random.normal(keys[1], (24, 50))
        lin = ngd.networks.linearize(net, net.init(jax.random.key(0)), x)
    found = ngd.fisher.EKFAC().layer_maps(lin, 0.0)[1]
    a, delta = np.asarray(lin.layers[1].inputs)[:, 0], np.asarray(lin.layers[1].sensitivities)
    u, v = (eigenvectors(rows) for rows in (delta[:, 0, 0], a))
    weights = 1 / (u.T**2 @ v**2)
    expected = np.einsum("ni,mi,nj,mj,ij->nm", u, u, v, v, weights, optimize=True)
    assert relative_error(found, expected) < 1e-6
    dispersion = 24 * float(ngd.theory.isotropy(found).dispersion)
    assert dispersion > 2.5 if clustered else dispersion < 2.2, dispersion


def eigenvectors(rows):
    """Of the Gram matrix, for eigenvalues that are not zero: columns."""
    values, vectors = np.linalg.eigh(rows @ rows.T)
    return vectors[:, values > 1e-12 * values[-1]]


def test_ekfac_is_nearer_to_the_fisher_and_further_from_isotropy_than_kfac():
    net = ngd.networks.mlp(7, [14, 14], 1, "relu")
    params = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 7))
    lin = ngd.networks.linearize(net, params, x)
    dense = DenseFisher.of(net, "relu", 2**0.5, 0.0, params, x)
    far = {"kfac": 0.0, "ekfac": 0.0}
    for index, (a, b) in enumerate(dense.kronecker_factors()):
        fisher = dense.fisher[np.ix_(dense.block(index), dense.block(index))].astype(float)
        basis = np.kron(np.linalg.eigh(b)[1], np.linalg.eigh(a)[1])
        moments = np.diag(basis.T @ fisher @ basis)
        far["kfac"] += np.linalg.norm(fisher - np.kron(b, a)) ** 2
        far["ekfac"] += np.linalg.norm(fisher - (basis * moments) @ basis.T) ** 2
    dispersions = {name: isotropy(ngd.fisher.by_name(name), lin)[1] for name in far}
    assert far["ekfac"] < 0.98 * far["kfac"]
    assert dispersions["ekfac"] > 100 * dispersions["kfac"]


@pytest.mark.parametrize(("power", "floor"), [(0.5, 0.13), (0.25, 0.43)])
def test_shampoo_keeps_its_dispersion_at_any_width(power, floor):
    approximation = ngd.fisher.Shampoo(power=power)
    for width in (512, 2048):
        found = np.mean([isotropy(approximation, draw(width, 20, s)[1])[1] for s in (0, 1)])
        assert found == pytest.approx(floor, rel=0.15), width


# --- Against dense matrices, and what they are not ---------------------------------------------------


def errors(approximation, p, damping, name=None, **options):
    """Relative errors of natural gradient, map and map to other inputs."""
    solution = p.dense.solution(name or approximation.name, damping, **options)
    step = approximation.natural_gradient(p.lin, p.residual, damping)
    return [
        relative_error(flatten(step), solution @ np.asarray(p.residual).ravel()),
        relative_error(
            approximation.function_space_map(p.lin, damping), p.dense.jacobian @ solution
        ),
        relative_error(
            approximation.function_space_map(p.lin, damping, p.at), p.jacobian_at @ solution
        ),
    ]


@pytest.mark.parametrize("power", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_power_of_shampoo_equals_the_dense_one(case, damping, power):
    approximation = ngd.fisher.Shampoo(power=power)
    assert max(errors(approximation, problem(case), damping, power=power)) < 1e-8
    if power != 0.5:
        assert min(errors(approximation, problem(case), damping, power=0.5)) > 1e-3


def test_damping_before_the_correction_is_another_matrix():
    """``A + rho_A``, ``B + rho_B`` in the moments' place, and moments of the damped factors, are not EKFAC."""
    p, rho = problem(CASES[0]), 1e-2
    right = np.asarray(ngd.fisher.EKFAC().function_space_map(p.lin, rho))
    blocks = []
    for a, b in p.dense.kronecker_factors():
        (of_a, v), (of_b, w) = np.linalg.eigh(a), np.linalg.eigh(b)
        products = np.multiply.outer(of_b + rho**0.5, of_a + rho**0.5)
        blocks.append((np.kron(w, v), products.ravel()))
    k = 0
    for index, (basis, moments) in enumerate(blocks):
        j = p.dense.jacobian[:, p.dense.block(index)] @ basis
        k = k + (j / moments) @ j.T / p.dense.num_samples
    assert relative_error(k, right) > 0.05
    for index, (basis, _) in enumerate(blocks):
        j = p.dense.jacobian[:, p.dense.block(index)] @ basis
        fisher = (j**2).sum(0) / p.dense.num_samples
        blocks[index] = (j / (fisher + rho)) @ j.T / p.dense.num_samples
    assert relative_error(sum(blocks), right) < 1e-10


@pytest.mark.parametrize("name", KRONECKER_FAMILY)
def test_a_missing_mean_over_samples_is_noticed(name):
    """Without its 1/N a factor is N times as large: no test here would pass with it."""
    p, n = problem(CASES[0]), CASES[0].num_samples
    approximation = ngd.fisher.by_name(name)
    found = np.asarray(approximation.function_space_map(p.lin, 1e-3))
    wrong = p.dense.jacobian @ p.dense.solution(name, 1e-3 / n) / n
    right = p.dense.jacobian @ p.dense.solution(name, 1e-3)
    assert relative_error(found, right) < 1e-8
    assert relative_error(found, wrong) > 0.1


def test_shampoo_of_an_empirical_fisher_is_that_of_the_losses_gradients():
    p = problem(CASES[0])
    kind = ngd.fisher.EmpiricalFisher(p.targets)
    found = ngd.fisher.Shampoo(kind=kind).natural_gradient(p.lin, p.residual, 1e-3)
    residual = np.asarray(p.residual)[:, :, None]
    dense = p.dense.with_output_fisher(residual @ residual.swapaxes(1, 2))
    expected = dense.natural_gradient("shampoo", 1e-3, p.residual)
    assert relative_error(flatten(found), expected) < 1e-8
    dense = p.dense.with_output_fisher(softmax_fisher(np.asarray(p.lin.outputs)))
    assert relative_error(flatten(found), dense.natural_gradient("shampoo", 1e-3, p.residual)) > 0.1


@pytest.mark.parametrize("name", KRONECKER_FAMILY)
def test_a_batch_of_dampings_is_each_damping(name):
    p, approximation = problem(CASES[0]), ngd.fisher.by_name(name)
    dampings = jnp.asarray([0.0, 1e-3, 1.0])

    def at(rho):
        prepared = approximation.prepare(p.lin, rho)
        return prepared.natural_gradient(p.residual), prepared.function_space_map(p.at)

    gradients, maps = jax.jit(jax.vmap(at))(dampings)
    for i, rho in enumerate((0.0, 1e-3, 1.0)):
        expected = approximation.natural_gradient(p.lin, p.residual, rho)
        one = jax.tree.map(lambda leaf, i=i: leaf[i], gradients)
        assert relative_error(flatten(one), flatten(expected)) < 1e-9
        expected = approximation.function_space_map(p.lin, rho, p.at)
        assert relative_error(maps[i], expected) < 1e-9


@pytest.mark.parametrize("power", [0.0, -0.5, 1.5, float("nan")])
def test_a_power_of_shampoo_out_of_range_is_refused(power):
    with pytest.raises(InputError, match=r"power is .*above 0 and at most 1"):
        ngd.fisher.Shampoo(power=power)


def test_what_the_theory_says_of_shampoo_depends_on_its_power():
    assert ngd.fisher.Shampoo().requirements == ("isotropic-at-some-width",)
    assert ngd.fisher.Shampoo(power=1.0).requirements == ()
