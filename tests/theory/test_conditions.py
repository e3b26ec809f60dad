"""Every condition, true and false, on networks built for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError

linearize = jax.jit(ngd.networks.linearize, static_argnums=0)


def check(name, network, x, damping=0.0, seed=0):
    """Conditions of the approximation ``name``, grouped by their names."""
    lin = linearize(network, jax.jit(network.init)(jax.random.key(seed)), jnp.asarray(x))
    found = {}
    for c in ngd.theory.check_conditions(ngd.fisher.by_name(name), network, lin, damping):
        found.setdefault(c.name, []).append(c)
    return found


def gaussian(num_samples, input_dim):
    return np.random.default_rng(0).normal(size=(num_samples, input_dim))


WIDE = ngd.networks.mlp(8, [32, 32], 1, "tanh", bias_std=0.3)
NAMES = {
    "exact": {"distinct-inputs", "positive-definite-ntk"},
    "block-diagonal": {"distinct-inputs", "positive-definite-layer-kernels"},
    "block-tridiagonal": {
        "distinct-inputs",
        "positive-definite-layer-kernels",
        "invertible-coupling",
        "well-conditioned-damped-system",
        "positive-damped-map",
    },
    "kfac": {
        "distinct-inputs",
        "general-position",
        "equal-leverages",
        "full-rank-sensitivities",
    },
    "kfac-tridiagonal": {"distinct-inputs", "full-rank-features", "full-rank-sensitivities"},
    "unit-wise": {"distinct-inputs", "full-rank-inputs", "many-units", "active-units"},
    "kfac-input": {"distinct-inputs", "general-position", "equal-leverages"},
    "kfac-output": {"distinct-inputs", "full-rank-sensitivities"},
    "ekfac": {
        "distinct-inputs",
        "general-position",
        "equal-leverages",
        "full-rank-sensitivities",
    },
    "shampoo": {"isotropic-at-some-width"},
    "entry-wise": {"isotropic-at-some-width"},
    "quasi-diagonal": {"isotropic-at-some-width"},
    "identity": {"isotropic-at-some-width"},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_condition_holds_where_the_theory_applies(name):
    network = ngd.networks.mlp(8, [512, 512], 1, "relu") if name == "unit-wise" else WIDE
    found = check(name, network, gaussian(6, 8), damping=1e-8)
    assert set(found) == NAMES[name]
    expected = name not in ("entry-wise", "quasi-diagonal", "identity", "shampoo")
    for conditions in found.values():
        for c in conditions:
            assert c.holds == expected, c
            assert c.why


def test_duplicated_inputs_are_named():
    x = gaussian(6, 8)
    x[4] = x[1]
    for name in ("exact", "kfac", "unit-wise"):
        (c,) = check(name, WIDE, x)["distinct-inputs"]
        assert not c.holds
        assert c.measured <= c.required
        assert "inputs 1 and 4 are equal" in c.why
        assert "remove the duplicate" in c.why
    (c,) = check("exact", WIDE, x)["positive-definite-ntk"]
    assert not c.holds
    assert "smallest eigenvalue of Theta" in c.why


def test_nearly_duplicated_inputs_are_still_distinct():
    x = gaussian(6, 8)
    x[4] = x[1] + 1e-4
    (c,) = check("exact", WIDE, x)["distinct-inputs"]
    assert c.holds
    assert c.measured == pytest.approx(1e-4 * 8**0.5 * 2**0.5 / 8**0.5, rel=1e-3)


def test_one_sample_is_distinct():
    (c,) = check("exact", WIDE, gaussian(1, 8))["distinct-inputs"]
    assert c.holds


def test_too_few_parameters_make_the_ntk_singular():
    (c,) = check("exact", ngd.networks.mlp(2, [2], 1), gaussian(10, 2))["positive-definite-ntk"]
    assert not c.holds
    assert "widen the network" in c.why
    assert c.layer is None


def test_a_narrow_layer_is_named_by_its_number():
    network = ngd.networks.mlp(8, [32, 3], 1, "tanh")
    conditions = check("block-diagonal", network, gaussian(6, 8))["positive-definite-layer-kernels"]
    assert [(c.layer, c.holds) for c in conditions] == [(1, True), (2, True), (3, False)]
    assert "Theta_3" in conditions[2].why
    assert "widen it" in conditions[2].why


@pytest.mark.parametrize("depth", range(1, 8))
def test_coupling_is_singular_at_every_third_depth(depth):
    network = ngd.networks.mlp(4, [16] * (depth - 1), 1, "tanh")
    (c,) = check("block-tridiagonal", network, gaussian(2, 4))["invertible-coupling"]
    assert c.holds == (depth % 3 != 2)
    assert f"L = {depth}" in c.why
    if not c.holds:
        assert c.measured < 1e-10
        assert "3s + 2" in c.why


def test_conditioning_of_the_damped_system_is_checked_at_positive_damping_only():
    x = gaussian(6, 8)
    assert "well-conditioned-damped-system" not in check("block-tridiagonal", WIDE, x)
    (c,) = check("block-tridiagonal", WIDE, x, damping=1e-3)["well-conditioned-damped-system"]
    assert c.holds
    singular = ngd.networks.mlp(8, [32], 1, "tanh")
    (c,) = check("block-tridiagonal", singular, x, damping=1e-15)["well-conditioned-damped-system"]
    assert not c.holds
    assert "change damping or depth" in c.why
    assert c.measured > c.required


def test_a_damping_at_which_the_tridiagonal_map_turns_steps_round_is_named():
    network, x = ngd.networks.mlp(8, [32, 32], 1, "tanh"), gaussian(6, 8)
    assert "positive-damped-map" not in check("block-tridiagonal", network, x)
    lin = linearize(network, network.init(jax.random.key(0)), jnp.asarray(x))
    signs = set()
    for damping in (1e-8, 1e-4, 1e-2, 0.03, 0.1, 0.3, 1.0):
        k = ngd.fisher.by_name("block-tridiagonal").function_space_map(lin, damping)
        smallest = np.linalg.eigvalsh((k + k.T) / 2)[0]
        (c,) = check("block-tridiagonal", network, x, damping)["positive-damped-map"]
        assert c.measured == pytest.approx(smallest, rel=1e-4)
        assert c.holds == (smallest > 0) == ("smaller damping" not in c.why)
        signs.add(c.holds)
    assert signs == {True, False}


def test_fewer_inputs_than_samples_are_a_rank_condition_of_layer_one():
    network = ngd.networks.mlp(4, [32, 32], 1)
    conditions = check("unit-wise", network, gaussian(9, 4))["full-rank-inputs"]
    assert [(c.layer, c.holds) for c in conditions] == [(1, False), (2, True), (3, True)]
    first = conditions[0]
    assert (first.measured, first.required) == (4, 9)
    assert "rank(a_1) is 4 of N T = 9" in first.why


def test_kfac_needs_equal_leverages_which_the_forster_transform_restores():
    network, x = ngd.networks.mlp(4, [32, 32], 1), gaussian(9, 4)
    conditions = {c.layer: c for c in check("kfac", network, x)["equal-leverages"]}
    assert {layer: c.holds for layer, c in conditions.items()} == {1: False, 2: True, 3: True}
    leverages = np.diagonal(x @ np.linalg.pinv(x))
    assert conditions[1].measured == pytest.approx(leverages.std() / leverages.mean())
    assert "sum to 4 of N T = 9" in conditions[1].why
    assert "Forster transform" in conditions[1].why
    y, _ = ngd.data.forster(x)
    assert all(c.holds for group in check("kfac", network, y).values() for c in group)


def test_equal_leverages_do_not_make_a_rank_deficient_output_layer_isotropic():
    # B_L = I_C, so K_L is the projector onto the inputs' range, whose diagonal alone is constant.
    network = ngd.networks.mlp(4, [], 1)
    y, _ = ngd.data.forster(gaussian(9, 4))
    lin = linearize(network, network.init(jax.random.key(0)), jnp.asarray(y))
    k = ngd.fisher.KFAC().function_space_map(lin, 0.0)
    assert float(ngd.theory.isotropy(k).dispersion) > 1
    assert not all(c.holds for group in check("kfac", network, y).values() for c in group)


def test_a_narrow_layer_limits_the_next_layers_inputs():
    network = ngd.networks.mlp(12, [5, 32], 1, "tanh")
    conditions = check("unit-wise", network, gaussian(9, 12))["full-rank-inputs"]
    assert [c.holds for c in conditions] == [True, False, True]
    assert "rank(a_2) is 5" in conditions[1].why
    assert "widen the previous layer" in conditions[1].why


def test_sensitivities_of_a_linear_network_have_rank_c():
    network = ngd.networks.mlp(12, [32, 32], 2, "identity")
    conditions = check("kfac", network, gaussian(6, 12))["full-rank-sensitivities"]
    assert [(c.layer, c.measured, c.required) for c in conditions] == [(1, 2, 12), (2, 2, 12)]
    assert not any(c.holds for c in conditions)
    assert "a nonlinear activation" in conditions[0].why


def test_unit_wise_needs_many_units():
    x = gaussian(6, 8)
    (few,) = check("unit-wise", ngd.networks.mlp(8, [16, 16], 1), x)["many-units"]
    (many,) = check("unit-wise", ngd.networks.mlp(8, [256, 256], 1), x)["many-units"]
    assert (few.holds, many.holds) == (False, True)
    assert "32 hidden units; widen the network" in few.why


def test_a_linearisation_of_another_network_is_refused():
    network = ngd.networks.mlp(8, [16], 1)
    lin = linearize(network, network.init(jax.random.key(0)), jnp.asarray(gaussian(3, 8)))
    with pytest.raises(InputError, match="not a linearisation of `net`"):
        ngd.theory.check_conditions(ngd.fisher.Exact(), WIDE, lin)


def test_a_condition_that_fails_makes_the_map_anisotropic_and_one_that_holds_does_not():
    # What the conditions are for: they tell isotropic maps from others, at damping 0.
    cases = [
        (ngd.networks.mlp(8, [48, 48], 1, "tanh", bias_std=0.3), gaussian(6, 8)),
        (ngd.networks.mlp(4, [48, 48], 1, "tanh"), gaussian(9, 4)),
        (ngd.networks.mlp(8, [48, 3], 1, "tanh"), gaussian(6, 8)),
        (ngd.networks.mlp(8, [48, 48], 1, "tanh"), np.repeat(gaussian(3, 8), 2, axis=0)),
    ]
    seen = set()
    for network, x in cases:
        lin = linearize(network, jax.jit(network.init)(jax.random.key(0)), jnp.asarray(x))
        for name in ("exact", "block-diagonal", "kfac"):
            approximation = ngd.fisher.by_name(name)
            conditions = ngd.theory.check_conditions(approximation, network, lin)
            holds = all(c.holds for c in conditions)
            k = approximation.function_space_map(lin, 0.0)
            isotropic = float(ngd.theory.isotropy(k).dispersion) < 1e-5
            assert holds == isotropic, (name, network, conditions)
            seen.add((name, holds))
    assert len(seen) == 6


NETWORKS = {
    "perceptron": WIDE,
    "one layer": ngd.networks.mlp(8, [], 2),
    "convolutions": ngd.networks.cnn((4, 4, 1), [5, 4], 2, pool=2, readout="pool"),
    "autoencoder": ngd.networks.autoencoder(8, [6, 3]),
    "standard": ngd.networks.standard_parameterization(WIDE),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_conditions_take_every_network_of_the_package(case):
    net = NETWORKS[case]
    x = np.random.default_rng(0).normal(size=(3, *net.input_shape))
    lin = linearize(net, net.init(jax.random.key(0)), jnp.asarray(x))
    for name in NAMES:
        conditions = ngd.theory.check_conditions(ngd.fisher.by_name(name), net, lin, 1e-6)
        # Of one layer, whose sensitivities are the outputs' own, K-FAC needs no rank.
        missing = {"full-rank-sensitivities"} if net.depth == 1 else set()
        assert {c.name for c in conditions} | missing == NAMES[name] | missing


def test_functions_without_layers_have_the_conditions_of_their_kernels():
    params = jax.random.normal(jax.random.key(0), (2, 8, 16))

    def apply(params, x):
        return jnp.sum(jnp.tanh(x @ params["a"]) * params["b"].sum(0), 1, keepdims=True)

    params = {"a": params[0], "b": params[1]}
    exact, x = ngd.fisher.Exact(), gaussian(5, 8)
    lin = ngd.networks.linearize_function(apply, params, jnp.asarray(x))
    (c,) = ngd.theory.check_conditions(exact, None, lin)
    assert (c.name, c.holds) == ("positive-definite-ntk", True)
    x[1] = x[0]
    lin = ngd.networks.linearize_function(apply, params, jnp.asarray(x))
    (c,) = ngd.theory.check_conditions(exact, None, lin)
    assert not c.holds
    conditions = ngd.theory.check_conditions(ngd.fisher.by_name("block-tridiagonal"), None, lin)
    assert "L = 2" in {c.name: c for c in conditions}["invertible-coupling"].why
    with pytest.raises(InputError, match="give None for `net`"):
        ngd.theory.check_conditions(exact, WIDE, lin)
    with pytest.raises(InputError, match="kfac"):
        ngd.theory.check_conditions(ngd.fisher.KFAC(), None, lin)
    # Of layers, without the network that sizes are counted of: inputs 0 and 1 are equal.
    layered = linearize(WIDE, WIDE.init(jax.random.key(0)), jnp.asarray(x))
    found = {c.name: c for c in ngd.theory.check_conditions(exact, None, layered)}
    assert not found["distinct-inputs"].holds


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_linearisation_that_is_not_finite_meets_no_condition(value):
    lin = linearize(WIDE, WIDE.init(jax.random.key(0)), jnp.asarray(gaussian(6, 8)))
    layer = dataclasses.replace(lin.layers[1], inputs=lin.layers[1].inputs.at[0, 0, 0].set(value))
    broken = dataclasses.replace(lin, layers=(lin.layers[0], layer, *lin.layers[2:]))
    for name in NAMES:
        (c,) = ngd.theory.check_conditions(ngd.fisher.by_name(name), WIDE, broken)
        assert (c.name, c.holds, c.blocking) == ("finite-linearisation", False, True)


@pytest.mark.parametrize("damping", [-1.0, float("nan"), float("inf")])
def test_a_damping_that_is_none_is_refused(damping):
    lin = linearize(WIDE, WIDE.init(jax.random.key(0)), jnp.asarray(gaussian(6, 8)))
    with pytest.raises(InputError, match="damping is"):
        ngd.theory.check_conditions(ngd.fisher.Exact(), WIDE, lin, damping)


def test_conditions_cannot_be_read_inside_jit():
    lin = linearize(WIDE, WIDE.init(jax.random.key(0)), jnp.asarray(gaussian(6, 8)))
    with pytest.raises(InputError, match="check_conditions needs the values"):
        jax.jit(lambda lin: ngd.theory.check_conditions(ngd.fisher.Exact(), WIDE, lin))(lin)


def test_single_precision_tells_general_position_too():
    x = gaussian(6, 8).astype("float32")
    params = WIDE.init(jax.random.key(0), "float32")
    for name in ("exact", "kfac", "unit-wise"):
        conditions = ngd.theory.check_conditions(
            ngd.fisher.by_name(name), WIDE, linearize(WIDE, params, jnp.asarray(x))
        )
        assert all(c.holds for c in conditions if c.name != "many-units"), name
