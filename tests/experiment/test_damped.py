"""The dense references of damped maps, against the definition of G in all parameters."""

from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
from scipy.linalg import block_diag

import ngd_theory as ngd
from ngd_theory.experiment import CLAIMS, Outcome
from ngd_theory.experiment.damped import REFERENCES, Problem, damped_map, kfac, kfac_tridiagonal
from ngd_theory.fisher import KFAC, Approximation, approximation

MLP = ngd.networks.mlp(5, [4, 6], 2, "tanh")
BIASED = ngd.networks.mlp(5, [4, 6], 2, "tanh", bias_std=0.4)
CNN = ngd.networks.cnn((4, 4, 2), [3, 5], 2, 3, 1, "same", "tanh")
DAMPING = 0.03


def setting(network, count=3, loss="mse"):
    params = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (count, *network.input_shape))
    y = jax.random.normal(jax.random.key(2), (count, network.output_dim))
    return params, x, jax.nn.softmax(y) if loss == "cross-entropy" else y


def problem_of(network, fisher=None, **changes):
    params, x, _ = setting(network)
    lin = ngd.networks.linearize(network, params, x)
    factors = [[np.asarray(v) for v in (y.inputs, y.sensitivities)] for y in lin.layers]
    return Problem(*zip(*factors, strict=True), fisher, DAMPING, **changes)


def jacobians(network):
    """Of each layer by automatic differentiation, (nC, P M), P times M as `Layout.to_matrix` has them."""
    params, x, _ = setting(network)
    every = jax.jacrev(network.apply)(params, x)
    rows = len(x) * network.output_dim
    found = []
    for block, of_layer in zip(network.blocks, every, strict=True):
        flat = jax.tree.map(lambda v: v.reshape(rows, *v.shape[2:]), of_layer)
        matrices = [
            block.affine.layout.to_matrix(jax.tree.map(lambda v, i=i: v[i], flat))
            for i in range(rows)
        ]
        found.append(np.stack(matrices).reshape(rows, -1))
    return found


def moments(problem, i, j):
    """``A_ij`` and ``B_ij`` with all sums written out."""
    n, rows = problem.size
    a, b, d, e = (*(problem.inputs[k] for k in (i, j)), *(problem.sensitivities[k] for k in (i, j)))
    if problem.sharing == "reduce":
        a, b = (v.mean(1)[:, None] for v in (a, b))
        d, e = (v.sum(2)[:, :, None] for v in (d, e))
    weights = (np.eye(rows) if problem.fisher is None else problem.fisher).reshape(
        n, -1, n, rows // n
    )
    first = sum(np.outer(a[s, t], b[s, t]) for s in range(n) for t in range(a.shape[1]))
    second = sum(
        weights[s, c, s, k] * np.outer(d[s, c, t], e[s, k, t])
        for s in range(n)
        for c in range(d.shape[1])
        for k in range(d.shape[1])
        for t in range(d.shape[2])
    )
    return first / n, second / (n * d.shape[2])


def damped_block(problem, i, pi):
    a, b = moments(problem, i, i)
    split = pi((np.trace(a) / len(a)) / (np.trace(b) / len(b)))
    root = np.sqrt(problem.damping)
    return np.kron(a + split * root * np.eye(len(a)), b + root / split * np.eye(len(b)))


def fisher_of(rows, n):
    """Some positive Lambda, a block a sample."""
    rng = np.random.default_rng(0)
    blocks = [m @ m.T for m in rng.normal(size=(n, rows // n, rows // n))]
    return block_diag(*blocks)


@pytest.mark.parametrize("pi", [np.sqrt, lambda ratio: 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("network, sharing", [(MLP, "expand"), (CNN, "expand"), (CNN, "reduce")])
def test_kfac_is_its_definition_in_all_parameters(network, sharing, weighted, pi):
    problem = problem_of(network, fisher_of(6, 3) if weighted else None, sharing=sharing)
    expected = sum(
        j @ np.linalg.solve(damped_block(problem, i, pi), j.T) / 3
        for i, j in enumerate(jacobians(network))
    )
    np.testing.assert_allclose(kfac(problem, pi), expected, atol=1e-11 * np.abs(expected).max())


def test_positions_that_are_reduced_are_another_map():
    one, other = (kfac(problem_of(CNN, sharing=s)) for s in ("expand", "reduce"))
    assert np.linalg.norm(one - other) > 0.05 * np.linalg.norm(one)


@pytest.mark.parametrize("pi", [np.sqrt, lambda ratio: 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_tridiagonal_inverse_agrees_with_f_tilde_on_three_diagonals(weighted, pi):
    """F-hat is known by that: its inverse is block-tridiagonal, and its central blocks are those of F-tilde."""
    problem = problem_of(MLP, fisher_of(6, 3) if weighted else None)
    blocks = {(i, i): damped_block(problem, i, pi) for i in range(3)}
    for i in range(2):
        blocks[i, i + 1] = np.kron(*moments(problem, i, i + 1))
        blocks[i + 1, i] = blocks[i, i + 1].T
    # The completion of a Gaussian chain: layers 1 and 3 are independent given layer 2.
    blocks[0, 2] = blocks[0, 1] @ np.linalg.solve(blocks[1, 1], blocks[1, 2])
    blocks[2, 0] = blocks[0, 2].T
    f_hat = np.block([[blocks[i, j] for j in range(3)] for i in range(3)])
    inverse = np.linalg.inv(f_hat)
    size = len(blocks[0, 0])
    np.testing.assert_allclose(inverse[:size, -len(blocks[2, 2]) :], 0, atol=1e-9)
    j = np.concatenate(jacobians(MLP), axis=1)
    expected = j @ inverse @ j.T / 3
    found = kfac_tridiagonal(problem, pi)
    np.testing.assert_allclose(found, expected, atol=1e-10 * np.abs(expected).max())
    assert np.linalg.norm(found - kfac(problem, pi)) > 0.01 * np.linalg.norm(found)


@pytest.mark.parametrize("network", [MLP, CNN, BIASED], ids=["mlp", "cnn", "biased"])
@pytest.mark.parametrize("name", REFERENCES)
def test_every_approximation_is_its_reference(network, name):
    if network is CNN and (name == "kfac-tridiagonal" or not REFERENCES[name].any_positions):
        pytest.skip("defined for dense layers")
    found = damped_map(ngd.fisher.by_name(name), network, *setting(network), "mse")
    assert found.error < 1e-11
    # At the mean of the eigenvalues the damping matters as much as they do; gradient descent has none.
    twice = REFERENCES[name].map(replace(found.problem, damping=2 * found.problem.damping))
    change = np.linalg.norm(twice - found.reference) / np.linalg.norm(found.reference)
    assert (0.1 < change < 0.8) == (name != "identity")


def test_the_quasi_diagonal_is_its_definition_in_all_parameters():
    found = damped_map(ngd.fisher.by_name("quasi-diagonal"), BIASED, *setting(BIASED), "mse")
    assert found.problem.biases == [True, True, True]
    expected = 0
    for j, delta in zip(jacobians(BIASED), found.problem.sensitivities, strict=True):
        units = j.reshape(len(j), -1, delta.shape[-1])
        for unit in np.moveaxis(units, -1, 0):
            block = unit.T @ unit / 3
            g = np.outer(block[-1], block[-1]) / block[-1, -1]
            np.fill_diagonal(g, np.diag(block))
            damped = g + found.problem.damping * np.eye(len(g))
            expected += unit @ np.linalg.solve(damped, unit.T) / 3
    np.testing.assert_allclose(found.reference, expected, rtol=1e-10)
    diagonal = REFERENCES["entry-wise"].map(found.problem)
    assert np.linalg.norm(diagonal - expected) > 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["kfac", "kfac-tridiagonal"])
def test_under_cross_entropy_the_factors_are_those_of_lambda(name):
    kind = ngd.fisher.TrueFisher("cross-entropy")
    data = setting(MLP, loss="cross-entropy")
    found = damped_map(ngd.fisher.by_name(name, kind=kind), MLP, *data, "cross-entropy")
    assert found.error < 1e-11
    plain = damped_map(ngd.fisher.by_name(name), MLP, *data, "cross-entropy")
    assert plain.error > 1e-3


def test_reduced_positions_are_judged_by_their_own_reference():
    found = damped_map(KFAC(sharing="reduce"), CNN, *setting(CNN), "mse")
    assert found.problem.sharing == "reduce" and found.error < 1e-11
    other = replace(found, reference=kfac(replace(found.problem, sharing="expand")))
    assert other.error > 0.01


@approximation
@dataclass(frozen=True)
class Mine(Approximation):
    name = "mine"

    def precondition(self, lin, cotangent, damping):
        return lin.vjp(cotangent)


def judged(evidence):
    (claim,) = (c for c in CLAIMS if c.name == "damped-map")
    assert claim.concerns(evidence)
    return claim.judge(evidence, {evidence.name: evidence})


def test_without_a_reference_the_claim_says_what_to_add(ideal):
    verdict = judged(replace(ideal("exact"), approximation=Mine(), damped=None))
    assert verdict.outcome is Outcome.NOT_APPLICABLE
    assert "mine has no dense reference: add one to ngd_theory.experiment.damped" in verdict.why
    wide = ngd.networks.mlp(5, [4], 65)
    assert damped_map(Mine(), MLP, *setting(MLP), "mse") is None
    assert damped_map(ngd.fisher.Exact(), wide, *setting(wide), "mse") is None
    soft = judged(replace(ideal("unit-wise"), loss="cross-entropy", damped=None))
    assert soft.outcome is Outcome.NOT_APPLICABLE and "MSE" in soft.why


def test_a_map_that_was_not_compared_decides_nothing(ideal):
    assert judged(ideal("exact")).outcome is Outcome.PASS
    verdict = judged(replace(ideal("exact"), damped=None))
    assert verdict.outcome is Outcome.INCONCLUSIVE
