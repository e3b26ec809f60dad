"""What careful users set: strict promotion of types, no promotion of ranks, no NaN anywhere."""

from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory import optim
from ngd_theory.fisher import APPROXIMATIONS

KEY = jax.random.key(0)
PERCEPTRON = ngd.networks.mlp(3, [4, 5], 2, "relu", bias_std=0.1)
IMAGES = ngd.networks.cnn((4, 4, 1), [3], 2, bias_std=0.1, pool=2)
KINDS = {
    "true": ngd.fisher.TrueFisher("cross-entropy"),
    "sampled": ngd.fisher.SampledFisher(KEY, num_samples=2),
    "empirical": ngd.fisher.EmpiricalFisher(jnp.ones((3, 2))),
}


def made(network):
    rng = np.random.default_rng(0)
    # In the shape of the parameters' own type; the second unit of the first layer is dead.
    x = jnp.asarray(rng.normal(size=(3, *network.input_shape)))
    params = network.init(KEY)
    params = ({**params[0], "bias": params[0]["bias"].at[1].set(-1e3)}, *params[1:])
    return params, x, jnp.eye(2)[jnp.asarray([0, 1, 0])]


def steps(network, name):
    """Linearisation, natural gradient and map of an approximation: damped, undamped, and by an array."""
    params, x, _ = made(network)
    approximation = ngd.fisher.by_name(name)
    for damping in (1e-2, 0.0, jnp.asarray(1e-2)):
        lin = ngd.networks.linearize(network, params, x)
        tangent = approximation.natural_gradient(lin, lin.outputs, damping)
        lin.jvp(tangent)
        yield approximation.function_space_map(lin, damping)


def kinds(name):
    params, x, _ = made(PERCEPTRON)
    lin = ngd.networks.linearize(PERCEPTRON, params, x)
    if "kind" in APPROXIMATIONS[name].__dataclass_fields__:
        for kind in KINDS.values():
            yield ngd.fisher.by_name(name, kind=kind).function_space_map(lin, 1e-2)


def dynamics(name):
    params, x, y = made(PERCEPTRON)
    approximation = ngd.fisher.by_name(name)
    yield ngd.dynamics.train(PERCEPTRON, params, x, y, approximation, 0.1, 2, 1e-2, x_test=x)
    lin = ngd.networks.linearize(PERCEPTRON, params, x)
    for loss in ("mse", "cross-entropy"):
        how = approximation, lin, y, 0.1, 2, 1e-2
        yield ngd.dynamics.predict(*how, at=lin, loss=loss)
        batches = jnp.array([[0], [1]])
        yield ngd.dynamics.predict(*how, lin, loss, batches=batches, momentum=0.5)
    yield ngd.dynamics.predict(*how, momentum=ngd.dynamics.spring(0.5))
    yield ngd.dynamics.risk(approximation, lin, y, 0.1, 0.1, [0, 2], 1e-2, lin, y)
    lopsided = jnp.eye(y.size) + jnp.triu(jnp.ones((y.size, y.size)))
    two = jnp.stack([y, y + 1])
    yield ngd.dynamics.risk_from_maps(lopsided, two, y, 0.1, 0.1, [0, 2], lopsided, two, y)
    prior = jnp.eye(2 * y.size)
    yield ngd.dynamics.prior_risk(lopsided.T @ lopsided, lopsided, prior, 0.1, 0.01, [0, 2])
    yield ngd.fisher.population_maps(approximation, lin, [1, 0], 1e-2, at=lin)


def of_losses():
    _, _, y = made(PERCEPTRON)
    outputs = y + 0.5
    for loss in ngd.losses.LOSSES.values():
        yield loss.value(outputs, y), loss.residual(outputs, y), loss.fisher_root(outputs)
        yield loss.sample_score(KEY, outputs), loss.squared_error(outputs, y)
        yield jax.grad(loss.value)(outputs, y)


def networks():
    for network in (PERCEPTRON, IMAGES):
        params, x, _ = made(network)
        yield network.apply(params, x)
        yield ngd.networks.scaled_init(network, KEY), ngd.networks.sparse_init(network, KEY)
    params, x, _ = made(PERCEPTRON)
    lin = ngd.networks.linearize_function(PERCEPTRON.apply, params, x)
    yield ngd.fisher.BlockDiagonal().natural_gradient(lin, lin.outputs, 1e-2)
    yield ngd.kernels.layerwise_ntk(lin), ngd.kernels.ntk(lin, lin)


def theory():
    params, x, _ = made(PERCEPTRON)
    lin = ngd.networks.linearize(PERCEPTRON, params, x)
    k = ngd.fisher.Exact().function_space_map(lin, 1e-2)
    yield ngd.theory.isotropy(k), ngd.theory.largest_monotone_step_size(k)
    yield [
        ngd.theory.check_conditions(each(), PERCEPTRON, lin, 1e-2)
        for each in APPROXIMATIONS.values()
    ]


def infinite():
    network = ngd.networks.mlp(3, [4, 5], 1, "relu", bias_std=0.1)
    _, x, y = made(network)
    yield ngd.kernels.infinite.ntk(network, x), ngd.kernels.infinite.nngp(network, x)
    arguments = ngd.fisher.BlockDiagonal(), network, x
    found = ngd.dynamics.predictor(*arguments, x, damping=1e-2)
    yield found
    yield ngd.dynamics.ensemble(found, network, x, x, y[:, :1], 0.1, [1, 2])
    times = [0, 2, float("inf")]
    yield ngd.dynamics.ensemble_risk(
        found, network, x, x, y[:, :1], y[:, :1], 0.1, 0.1, times
    ).total
    yield ngd.dynamics.predict_limit(*arguments, y[:, :1] / 2, y[:, :1], 0.1, 2, 1e-2)


def optimizer(structure):
    params, x, y = made(PERCEPTRON)
    loss = ngd.losses.CROSS_ENTROPY
    options = {"averaging": 0.9, "damping_period": 2, "reject_worse": True}
    method = optim.kfac(PERCEPTRON, loss, structure=structure, **options)
    state = method.init(params)
    for _ in range(2):
        grads = jax.grad(lambda p: loss.value(PERCEPTRON.apply(p, x), y))(params)
        updates, state = jax.jit(method.update)(grads, state, params, x=x, y=y)
        params = jax.tree.map(jnp.add, params, updates)
        yield params


CALLS = {
    **{f"dense {name}": lambda name=name: steps(PERCEPTRON, name) for name in APPROXIMATIONS},
    **{
        f"images {name}": lambda name=name: steps(IMAGES, name)
        for name in ("exact", "kfac", "unit-wise", "entry-wise")
    },
    **{f"kinds of {name}": lambda name=name: kinds(name) for name in APPROXIMATIONS},
    **{f"dynamics of {name}": lambda name=name: dynamics(name) for name in APPROXIMATIONS},
    **{"losses": of_losses, "networks": networks, "theory": theory, "infinite width": infinite},
    "optimizer": lambda: optimizer("block-diagonal"),
    "tridiagonal optimizer": lambda: optimizer("block-tridiagonal"),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_promoted_and_no_number_is_nan(name):
    with ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        stack.enter_context(jax.debug_nans(True))
        for _ in CALLS[name]():
            pass
