"""Every approximation on convolutional networks equals the dense one, and the identities of KFC."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, relative_error
from convolutions import CASES, ConvolutionCase, problem
from dense import flatten, softmax_fisher

import ngd_theory as ngd
from ngd_theory.errors import InputError
from ngd_theory.kernels import empirical
from ngd_theory.networks import chain
from ngd_theory.networks.block import Block
from ngd_theory.networks.convolution import Convolution, Flatten

NAMES = tuple(name for name in APPROXIMATIONS if name != "kfac-tridiagonal")


def errors(approximation, p, damping, **options):
    solution = p.dense.solution(approximation.name, damping, **options)
    gradient = approximation.natural_gradient(p.lin, p.residual, damping)
    expected = p.dense.natural_gradient(approximation.name, damping, p.residual, **options)
    return {
        "natural gradient": relative_error(flatten(gradient), expected),
        "training map": relative_error(
            approximation.function_space_map(p.lin, damping), p.dense.jacobian @ solution
        ),
        "test map": relative_error(
            approximation.function_space_map(p.lin, damping, at=p.at), p.jacobian_at @ solution
        ),
    }


#: Where the dual of a layer is, all have the same; where positions enter, each its own.
SOME = ("block-diagonal", "kfac", "unit-wise", "entry-wise", "ekfac", "shampoo")


@pytest.mark.parametrize(
    ("case", "name", "damping"),
    [
        (case, name, 0.0 if i % 2 else 1e-3)
        for i, case in enumerate(CASES)
        for name in (NAMES if i in (0, 5) else SOME)
    ],
    ids=lambda v: str(v),
)
def test_every_approximation_equals_the_dense_one(case, name, damping):
    found = errors(ngd.fisher.by_name(name), problem(case), damping)
    assert max(found.values()) < 1e-8, found


@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=str)
@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_the_reduced_factors_equal_the_dense_ones(case, damping):
    reduce = ngd.fisher.KFAC(sharing="reduce")
    found = errors(reduce, problem(case), damping, sharing="reduce")
    assert max(found.values()) < 1e-8, found
    # The control: the two ways of sharing are not the same.
    wrong = errors(reduce, problem(case), damping, sharing="expand")
    assert min(wrong.values()) > 1e-2, wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    "approximation",
    [
        *(ngd.fisher.by_name(name) for name in NAMES if ngd.fisher.APPROXIMATIONS[name].by_layers),
        ngd.fisher.KFAC(output_factor="uniform"),
        ngd.fisher.KFAC(sharing="reduce"),
    ],
    ids=str,
)
def test_the_maps_of_the_layers_add_up_to_the_networks(approximation):
    p = problem(CASES[3])
    maps = approximation.layer_maps(p.lin, 1e-3)
    whole = approximation.function_space_map(p.lin, 1e-3)
    assert relative_error(sum(maps[1:], maps[0]), whole) < 1e-12
    assert len(maps) == len(p.lin.layers)


@pytest.mark.parametrize("name", ["exact", "block-diagonal", "kfac"])
def test_the_fisher_of_the_cross_entropy_equals_the_dense_one(name):
    """Lambda is not the identity: K times the residual is J of the natural gradient, from dense matrices."""
    p = problem(CASES[4])
    kind = ngd.fisher.TrueFisher("cross-entropy")
    found = ngd.fisher.by_name(name, kind=kind).natural_gradient(p.lin, p.residual, 1e-3)
    dense = p.dense.with_output_fisher(softmax_fisher(p.outputs))
    assert relative_error(flatten(found), dense.natural_gradient(name, 1e-3, p.residual)) < 1e-8


def test_the_block_tridiagonal_inverse_of_kfac_is_for_dense_layers():
    p = problem(CASES[0])
    tridiagonal = ngd.fisher.by_name("kfac-tridiagonal")
    with pytest.raises(InputError, match="convolution"):
        tridiagonal.natural_gradient(p.lin, p.residual, 1e-3)
    assert ngd.theory.isotropy_constant(tridiagonal, p.network, 4) is None
    with pytest.raises(InputError, match="block-diagonal"):
        ngd.optim.kfac(p.network, "mse", structure="block-tridiagonal")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_ways_to_a_layer_kernel_agree_at_every_memory_budget(case):
    p = problem(case)
    for here, there in zip(p.lin.layers, p.at.layers, strict=True):
        rows = [
            np.einsum("nctm,ntp->ncmp", y.sensitivities, y.inputs).reshape(p.lin.outputs.size, -1)
            for y in (here, there)
        ]
        expected = rows[0] @ rows[1].T
        for budget in (1, 500, 2**28):
            grams = empirical._over_positions(here, there).reshape(expected.shape)
            ways = {
                "Gram matrices of all positions": grams,
                "chosen": empirical.layer_kernel(here, there, memory_budget=budget),
                "rows": empirical.weighted_layer_kernel(here, there, memory_budget=budget),
            }
            for name, found in ways.items():
                assert relative_error(found, expected) < 1e-12, (name, budget)


def test_the_ntk_is_that_of_autodiff():
    p = problem(CASES[3])
    assert relative_error(ngd.kernels.ntk(p.lin), p.dense.jacobian @ p.dense.jacobian.T) < 1e-12
    assert relative_error(ngd.kernels.ntk(p.lin, p.at), p.dense.jacobian @ p.jacobian_at.T) < 1e-12


ONE_PIXEL = ConvolutionCase("one pixel", (1, 1, 7), (6, 5), 2, 4, 1, bias_std=0.3)


@pytest.mark.slow
def test_on_images_of_one_pixel_kfc_is_the_dense_layers_kfac():
    p = problem(ONE_PIXEL)
    net = ngd.networks.mlp(7, [6, 5], 2, "tanh", bias_std=0.3)
    params = tuple(
        {**q, "weight": q["weight"].reshape(-1, q["weight"].shape[-1])} for q in p.params
    )
    lin = ngd.networks.linearize(net, params, p.x.reshape(4, 7))
    kfac = ngd.fisher.KFAC()
    found = kfac.function_space_map(p.lin, 1e-3)
    assert relative_error(found, kfac.function_space_map(lin, 1e-3)) < 1e-12


def difference_from_block_diagonal(lin, sharing="expand"):
    maps = [
        approximation.function_space_map(lin, 0.0)
        for approximation in (ngd.fisher.KFAC(sharing=sharing), ngd.fisher.BlockDiagonal())
    ]
    return relative_error(*maps)


def position_wise(channels, activation, kernel_size=1):
    """Convolutions only, with outputs at every position: C = T * channels[-1]."""
    shape, blocks = (2, 3, channels[0]), []
    phi = ngd.networks.ACTIVATIONS[activation]
    for m in channels[1:]:
        layer = Convolution(shape, m, kernel_size, 1, "circular", 1.5, 0.0)
        blocks.append(Block(layer, (phi,), 1.0, activation == "identity"))
        shape = layer.output_shape
    blocks[-1] = Block(blocks[-1].affine, (Flatten(),))
    return chain((2, 3, channels[0]), tuple(blocks), activation)


def linearized(net, x, seed=0):
    return ngd.networks.linearize(net, net.init(jax.random.key(seed)), x)


def test_kfc_is_block_diagonal_in_a_linear_position_wise_network():
    """No activation, 1 x 1 kernels, an output a position: positions do not meet, delta is the same at all."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 3, 4)))
    assert (
        difference_from_block_diagonal(linearized(position_wise([4, 6, 5], "identity"), x)) < 1e-9
    )
    # The controls: a nonlinearity, and kernels that see neighbours.
    assert difference_from_block_diagonal(linearized(position_wise([4, 6, 5], "tanh"), x)) > 1e-2
    wide = position_wise([4, 6, 5], "identity", kernel_size=2)
    assert difference_from_block_diagonal(linearized(wide, x)) > 1e-2


def test_kfc_is_block_diagonal_for_one_datum_whose_patches_are_all_the_same():
    flat = jnp.broadcast_to(jnp.asarray([0.7, -1.2, 0.4]), (1, 2, 3, 3))
    net = position_wise([3, 6, 5], "tanh")
    assert difference_from_block_diagonal(linearized(net, flat)) < 1e-9
    bumpy = flat + jnp.asarray(np.random.default_rng(0).normal(size=flat.shape))
    assert difference_from_block_diagonal(linearized(net, bumpy)) > 1e-2
    assert difference_from_block_diagonal(linearized(net, jnp.concatenate([flat, 2 - flat]))) > 1e-2


@pytest.mark.slow
def test_the_reduced_factors_are_exact_in_a_linear_network_with_global_pooling():
    case = ConvolutionCase(
        *("linear", (2, 3, 4), (5, 6), 3, 3, 1), activation="identity", readout="pool"
    )
    p = problem(case)
    assert difference_from_block_diagonal(p.lin, "reduce") < 1e-9
    assert difference_from_block_diagonal(p.lin, "expand") > 1e-2


# Wide networks: docs/theory.md section 7.


def wide_layers(width, seed=0):
    net = ngd.networks.cnn((4, 4, 3), [width, width], 1, activation="tanh")
    x = np.random.default_rng(seed).normal(size=(4, 4, 4, 3))
    return net, linearized(net, jnp.asarray(x), seed)


def layer_isotropy(layer):
    one = ngd.networks.Linearization(layer.sensitivities[:, :, 0, 0], (layer,))
    return ngd.theory.isotropy(ngd.fisher.KFAC().layer_maps(one, 0.0)[0])


def test_wide_kfc_is_isotropic_with_alpha_n_t_squared_where_the_ranks_are_full():
    """N = 4, T = 16: 1024; the first layer's patches have rank 27 only, which gives 27 * 64 / 4 = 432."""
    net, lin = wide_layers(128)
    predicted = ngd.fisher.KFAC().layer_constants(net.layer_sizes, 4)
    np.testing.assert_allclose(predicted, [432, 1024, 1], rtol=1e-12)
    found = [layer_isotropy(layer) for layer in lin.layers]
    np.testing.assert_allclose([i.constant for i in found], predicted, rtol=1e-6)
    assert found[1].dispersion < 1e-6
    assert 1e-3 < found[0].dispersion < 0.3


def test_narrow_kfc_keeps_a_dispersion():
    """32 channels hold rank 32 of the 64 sensitivities: half of alpha, and no isotropy at any N."""
    _, lin = wide_layers(32)
    found = layer_isotropy(lin.layers[1])
    np.testing.assert_allclose(found.constant, 512, rtol=1e-6)
    assert found.dispersion > 0.01


def test_the_conditions_of_kfc_name_the_layers_that_are_not_of_full_rank():
    net, lin = wide_layers(128)
    by_name = {}
    for condition in ngd.theory.check_conditions(ngd.fisher.KFAC(), net, lin):
        by_name.setdefault((condition.name, condition.layer), condition)
    assert not by_name["equal-leverages", 1].holds
    assert by_name["equal-leverages", 2].holds
    assert by_name["full-rank-sensitivities", 2].holds


@pytest.mark.parametrize("name", ["block-diagonal", "unit-wise"])
def test_other_approximations_have_their_constants_on_wide_convolutions(name):
    net, lin = wide_layers(128)
    k = ngd.fisher.by_name(name).function_space_map(lin, 0.0)
    predicted = ngd.theory.isotropy_constant(ngd.fisher.by_name(name), net, 4)
    found = ngd.theory.isotropy(k)
    np.testing.assert_allclose(found.constant, predicted, rtol=1e-6)
    assert found.dispersion < 1e-6


@pytest.mark.slow
def test_training_follows_the_prediction_more_closely_with_more_channels():
    approximation = ngd.fisher.KFAC()
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(4, 3, 3, 3))), jnp.asarray(rng.normal(size=(4, 1)))
    gaps = []
    for channels in (48, 384):
        net = ngd.networks.cnn((3, 3, 3), [channels], 1, activation="tanh")
        params = net.init(jax.random.key(0))
        lin = ngd.networks.linearize(net, params, x)
        step = 0.5 * ngd.theory.optimal_step_size(approximation, net, 4)
        predicted = ngd.dynamics.predict(approximation, lin, y, step, 3, 0.0)
        trained = ngd.dynamics.train(net, params, x, y, approximation, step, 3, 0.0)
        gaps.append(relative_error(trained.outputs[-1] - y, predicted.outputs[-1] - y))
    assert gaps[1] < 0.6 * gaps[0], gaps
