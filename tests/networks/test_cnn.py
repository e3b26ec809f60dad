"""Convolutional networks: their factors, their errors, and that the factored Jacobian is autodiff's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import relative_error
from convolutions import CASES, ConvolutionCase, problem

import ngd_theory as ngd
from ngd_theory.errors import InputError
from ngd_theory.networks import cnn, geometry
from ngd_theory.networks.checks import require_size


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_inputs_and_sensitivities_equal_the_slow_reference(case):
    p = problem(case)
    np.testing.assert_allclose(p.lin.outputs, p.outputs, rtol=1e-12, atol=1e-13)
    for layer, a, delta in zip(p.lin.layers, p.dense.inputs, p.dense.sensitivities, strict=True):
        np.testing.assert_allclose(layer.inputs, a, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(layer.sensitivities, delta, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_factored_jacobian_is_autodiffs(case):
    p = problem(case)
    rows = [
        np.einsum("nctm,ntp->ncmp", y.sensitivities, y.inputs).reshape(p.lin.outputs.size, -1)
        for y in p.lin.layers
    ]
    assert relative_error(np.concatenate(rows, axis=1), p.dense.jacobian) < 1e-12


def test_vjp_and_jvp_are_autodiffs():
    p = problem(CASES[1])
    tangent = jax.tree.map(lambda v: jnp.cos(7 * v), p.params)
    _, expected = jax.jvp(lambda q: p.network.apply(q, p.x), (p.params,), (tangent,))
    np.testing.assert_allclose(p.lin.jvp(tangent), expected, rtol=1e-11)
    _, pull = jax.vjp(lambda q: p.network.apply(q, p.x), p.params)
    for found, wanted in zip(p.lin.vjp(p.residual), pull(p.residual)[0], strict=True):
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-12)


def test_a_kernel_of_the_whole_image_is_a_dense_layer():
    x = jax.random.normal(jax.random.key(1), (4, 3, 3, 2))
    net = cnn((3, 3, 2), [5], 2, padding="valid", activation="tanh", bias_std=0.3)
    same = ngd.networks.mlp(18, [5], 2, "tanh", bias_std=0.3)
    params = net.init(jax.random.key(0))
    dense = ({**params[0], "weight": params[0]["weight"].reshape(18, 5)}, params[1])
    np.testing.assert_allclose(
        net.apply(params, x), same.apply(dense, x.reshape(4, 18)), rtol=1e-12
    )


@pytest.mark.parametrize("padding", ["same", "valid", "circular"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2)])
def test_the_way_of_accelerators_is_that_of_cpus(padding, kernel, stride):
    """Values and both gradients of XLA's convolution equal those of the patches."""
    net = cnn((5, 6, 2), [3], 1, kernel, stride, padding)
    layer = net.blocks[0].affine
    weight = net.init(jax.random.key(0))[0]["weight"]
    h = jax.random.normal(jax.random.key(1), (4, 5, 6, 2))
    ways = [
        jax.value_and_grad(lambda w, h, way=way: jnp.sum(jnp.sin(way(w, h))), (0, 1))(weight, h)
        for way in (layer._by_patches, layer._by_convolution)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), *ways)


def test_circular_padding_commutes_with_shifts_and_zeros_do_not():
    x = jax.random.normal(jax.random.key(1), (2, 5, 4, 1))
    shifted = jnp.roll(x, (2, 1), axis=(1, 2))
    for padding, equal in (("circular", True), ("same", False)):
        net = cnn((5, 4, 1), [6, 6], 2, padding=padding, readout="pool")
        params = net.init(jax.random.key(0))
        error = relative_error(net.apply(params, shifted), net.apply(params, x))
        assert (error < 1e-12) == equal, (padding, error)


def test_pooling_drops_what_does_not_fill_a_window():
    pool = ngd.networks.AveragePool(2)
    image = jnp.arange(15.0).reshape(1, 5, 3, 1)
    np.testing.assert_allclose(pool(image)[0, :, :, 0], [[2.0], [8.0]])


def test_entries_of_an_ntk_parameterised_network_do_not_grow_with_its_channels():
    x = jax.random.normal(jax.random.key(0), (16, 6, 6, 3))
    spread = []
    for channels in (16, 256):
        net = cnn((6, 6, 3), [channels, channels], 8, padding="circular")
        spread.append(float(jnp.std(net.apply(net.init(jax.random.key(1)), x))))
    assert 0.5 < spread[1] / spread[0] < 2


def test_layer_sizes_count_positions_and_parameters():
    net = cnn((8, 6, 3), [4, 5], 2, kernel_size=[3, 2], stride=[1, 2], bias_std=1.0)
    first, second, last = net.layer_sizes
    assert (first.positions, first.num_inputs, first.num_units) == (48, 28, 4)
    assert (second.positions, second.num_inputs, second.num_units) == (12, 17, 5)
    assert (last.positions, last.num_inputs, last.num_units) == (1, 61, 2)
    params = net.init(jax.random.key(0))
    assert net.num_parameters == sum(v.size for v in jax.tree.leaves(params))
    assert params[0]["weight"].shape == (3, 3, 3, 4)


#: Edges that pooling drops, kernels wider than their image, strides over positions, networks without activation.
RANK_CASES = (
    *CASES,
    ConvolutionCase("an edge dropped", (5, 5, 6), (64,), 1, 2, pool=2),
    ConvolutionCase("kernel over padding", (4, 4, 1), (6, 5, 7), 1, 20, pool=(2, 2, 1)),
    ConvolutionCase("kernel around a torus", (2, 2, 3), (20,), 1, 4, padding="circular"),
    ConvolutionCase("passed over", (4, 4, 2), (40, 3), 1, 2, 1, stride=2),
    ConvolutionCase(
        "linear, pooled away", (8, 8, 3), (1, 16), 1, 10, activation="identity", pool=(4, 1)
    ),
    ConvolutionCase("linear, passed over", (4, 4, 1), (8,), 1, 10, 1, 2, activation="identity"),
    ConvolutionCase("linear, flattened", (4, 4, 1), (6,), 1, 20, activation="identity"),
    ConvolutionCase(
        *("linear, global pooling", (4, 4, 2), (24,), 2, 4),
        activation="identity",
        readout="pool",
        bias_std=0.3,
    ),
)


@pytest.mark.parametrize("case", RANK_CASES, ids=str)
def test_predicted_ranks_are_measured(case):
    net, n = case.network, case.num_samples
    x = jnp.asarray(np.random.default_rng(0).normal(size=(n, *case.input_shape)))
    lin = jax.jit(lambda p, x: ngd.networks.linearize(net, p, x))(net.init(jax.random.key(0)), x)
    for size, layer in zip(net.layer_sizes, lin.layers, strict=True):
        a = np.asarray(layer.inputs).reshape(-1, size.num_inputs)
        delta = np.asarray(layer.sensitivities).reshape(-1, size.num_units)
        assert np.linalg.matrix_rank(a) == size.input_rank(n)
        assert np.linalg.matrix_rank(delta) == size.sensitivity_rank(n, case.output_dim)
        kernel = np.asarray(ngd.kernels.layer_kernel(layer))
        rank = np.linalg.matrix_rank(kernel, tol=1e-10 * np.trace(kernel))
        assert rank == size.jacobian_rank(n, case.output_dim)


def test_positions_that_no_output_depends_on_leave_kfc_isotropic():
    """5 x 5 positions of which pooling keeps 4 x 4: alpha is N T T' = 2 * 25 * 16, at full rank."""
    case = ConvolutionCase("", (5, 5, 6), (64,), 1, 2, pool=2)
    net, kfc = case.network, ngd.fisher.KFAC()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 6)))
    lin = ngd.networks.linearize(net, net.init(jax.random.key(0)), x)
    assert net.layer_sizes[0].geometry.live_positions == 16
    found = ngd.theory.isotropy(kfc.layer_maps(lin, 0.0)[0])
    np.testing.assert_allclose(found.constant, 800, rtol=1e-8)
    np.testing.assert_allclose(kfc.layer_constants(net.layer_sizes, 2)[0], 800)
    assert found.dispersion < 1e-8
    assert all(c.holds for c in ngd.theory.check_conditions(kfc, net, lin))


def test_a_unit_behind_global_pooling_sees_one_direction_of_the_outputs():
    """All positions of a unit share the pooled cotangent: its share of alpha is 1/C, not 1."""
    net = ngd.networks.cnn((4, 4, 3), [128, 128], 3, activation="tanh", readout="pool")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 4, 3)))
    lin = ngd.networks.linearize(net, net.init(jax.random.key(0)), x)
    unit_wise = ngd.fisher.UnitWise()
    predicted = unit_wise.layer_constants(net.layer_sizes, 4)
    np.testing.assert_allclose(predicted, [128, 128 / 3, 1])
    found = [ngd.theory.isotropy(k).constant for k in unit_wise.layer_maps(lin, 0.0)]
    np.testing.assert_allclose(found, predicted, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_shape": (8, 8)}, ["input_shape", "(height, width, channels)"]),
        ({"input_shape": (8, 0, 1)}, ["input_shape[1]", "0"]),
        ({"channels": []}, ["channels", "mlp"]),
        ({"channels": [4, 0]}, ["channels[1]", "0"]),
        ({"kernel_size": [3]}, ["kernel_size", "1 values", "2 convolutions"]),
        ({"stride": 0}, ["stride", "0"]),
        ({"padding": "zeros"}, ["padding", "zeros", "circular"]),
        ({"readout": "mean"}, ["readout", "mean", "flatten"]),
        ({"activation": "sine"}, ["activation", "sine"]),
        ({"padding": "valid", "kernel_size": 7}, ["convolution 2", "7 x 7", "2 x 2"]),
        ({"pool": 9}, ["pool", "convolution 1", "9"]),
        ({"weight_std": 0.0}, ["weight_std"]),
        ({"bias_std": float("nan")}, ["bias_std"]),
    ],
)
def test_impossible_networks_are_refused_in_words(change, words):
    options = {"input_shape": (8, 8, 1), "channels": [4, 4], "output_dim": 2, **change}
    with pytest.raises(InputError) as caught:
        cnn(**options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("size", [2.5, "a", None, float("inf"), float("nan"), [3, 3], 0])
def test_what_is_no_size_is_refused_in_words(size):
    with pytest.raises(InputError, match=r"kernel_size is .*whole number"):
        require_size("kernel_size", size)


def test_images_of_another_shape_are_refused():
    net = ConvolutionCase("", (4, 4, 1), (2,), 1, 1).network
    with pytest.raises(InputError, match=r"\(N, 4, 4, 1\)"):
        net.apply(net.init(jax.random.key(0)), jnp.ones((2, 16)))


def test_channels_are_counted_and_not_allocated():
    few, many = 4, 10**8
    for options in ({}, {"pool": 2}, {"readout": "pool", "bias_std": 0.3, "stride": 2}):
        small = cnn((8, 8, 3), [few, few], 2, **options)
        large = cnn((8, 8, 3), [many, many], 2, **options)
        for a, b in zip(small.layer_sizes, large.layer_sizes, strict=True):
            assert (a.geometry.live_positions, a.geometry.windows) == (
                b.geometry.live_positions,
                b.geometry.windows,
            )
            assert b.geometry.live_units == b.num_units
        layouts = [block.affine.layout for block in large.blocks]
        assert large.num_parameters == sum(y.num_inputs * y.num_units for y in layouts)
        seen = large.layer_sizes[1].geometry
        assert seen.seen // many == small.layer_sizes[1].geometry.seen // few
        biases = int(large.blocks[1].affine.layout.has_bias)
        assert seen.distinct_inputs == 9 * many + biases
        assert ngd.theory.isotropy_constant(ngd.fisher.BlockDiagonal(), large, 2) == 3


@pytest.mark.parametrize("case", RANK_CASES, ids=str)
def test_counts_of_one_channel_are_those_of_all(case, monkeypatch):
    net = case.network
    thin, _ = geometry.geometries(net.input_shape, net.blocks)
    monkeypatch.setattr(geometry, "_thin", lambda blocks: None)
    whole, _ = geometry.geometries(net.input_shape, net.blocks)
    assert thin == whole
