"""neural-tangents' kernels of convolutional networks, layer by layer: parameters, sums, finite networks.

The gate of the finite networks is that of test_finite_width.py: Student's t of the mean over seeds, Bonferroni
over layers and cases.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ngd_theory import dynamics, fisher, kernels
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.kernels import infinite
from ngd_theory.kernels.infinite import bridge
from ngd_theory.networks import chain, cnn, linearize

FALSE_ALARM, SEEDS, CHANNELS = 1e-4, 20, 192
CASES = {
    "same, flatten": {"bias_std": 0.3},
    "circular, pooling": {"padding": "circular", "readout": "pool", "activation": "erf"},
    "valid, average pooling": {"padding": "valid", "kernel_size": 2, "pool": [2, 1]},
}
NUM_TESTS = 3 * len(CASES)


pytestmark = pytest.mark.usefixtures("installed")


def network(name, channels=3):
    return cnn((5, 6, 2), [channels, channels], 2, **CASES[name])


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(0), (3, 5, 6, 2))


@pytest.mark.parametrize(
    "options",
    [
        *CASES.values(),
        {"stride": [2, 1], "activation": "tanh"},
        {"stride": 2, "padding": "circular"},
    ],
    ids=str,
)
def test_same_parameters_give_the_same_outputs_both_ways(options, images):
    net = cnn((5, 6, 2), [3, 3], 2, **options)
    stax = infinite.to_stax(net)
    params = net.init(jax.random.key(3))
    there = infinite.params_to_stax(net, params)
    np.testing.assert_allclose(stax.apply_fn(there, images), net.apply(params, images), atol=1e-12)
    _, drawn = stax.init_fn(jax.random.key(4), images.shape)
    ours = infinite.params_from_stax(net, drawn)
    np.testing.assert_allclose(stax.apply_fn(drawn, images), net.apply(ours, images), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_layers_sum_to_the_kernel_and_are_the_means_over_wide_networks(name, images):
    limit = infinite.layerwise_ntk(network(name), images)
    np.testing.assert_allclose(limit.sum(0), infinite.ntk(network(name), images), rtol=1e-12)
    net = network(name, CHANNELS)
    x = images.astype("float32")
    generator = np.random.default_rng(7)

    @jax.jit
    def one(params):
        found = kernels.layerwise_ntk(linearize(net, params, x)).reshape(3, 3, 2, 3, 2)
        return jnp.einsum("lncmc->lnm", found) / 2

    def draw():
        shapes = [block.affine.layout.shapes for block in net.blocks]
        return tuple(
            {k: generator.standard_normal(v, "float32") for k, v in layer.items()}
            for layer in shapes
        )

    sampled = jnp.stack([one(draw()) for _ in range(SEEDS)])
    values = np.asarray(jnp.mean(sampled * jnp.sign(limit), axis=(2, 3)), float)
    exact = np.asarray(jnp.mean(jnp.abs(limit), axis=(1, 2)), float)
    spread = values.std(axis=0, ddof=1) / SEEDS**0.5
    deviation = np.abs(values.mean(axis=0) - exact) / np.hypot(spread, 1e-5 * exact)
    bound = stats.t.isf(FALSE_ALARM / NUM_TESTS / 2, SEEDS - 1)
    assert deviation.max() < bound, deviation
    # The control: the first layers are told from their neighbours.
    told = np.abs(values.mean(axis=0) - np.roll(exact, 1)) > bound * spread
    assert told[:-1].all(), told


def test_the_closed_form_is_for_perceptrons(images):
    with pytest.raises(NotPredictedError, match="neural-tangents"):
        infinite.layer_kernels(network("same, flatten"), images)
    with pytest.raises(NotPredictedError, match="layer 1"):
        odd = network("same, flatten")
        block = type(odd.blocks[0])(odd.blocks[0].affine, (jnp.sin,))
        bridge.to_stax(chain(odd.input_shape, (block, *odd.blocks[1:])))


def test_maps_of_the_limit_are_those_of_the_layers_kernels(images):
    net = network("same, flatten")
    x, at = images, jax.random.normal(jax.random.key(1), (2, 5, 6, 2))
    shares = np.asarray(infinite.layerwise_ntk(net, jnp.concatenate([x, at])))
    here, there = shares[:, :3, :3], shares[:, 3:, :3]
    expected = {
        "identity": (here.sum(0) / 3, there.sum(0) / 3),
        "exact": (np.eye(3), there.sum(0) @ np.linalg.inv(here.sum(0))),
        "block-diagonal": (
            3 * np.eye(3),
            sum(b @ np.linalg.inv(a) for a, b in zip(here, there, strict=True)),
        ),
    }
    for name, (k, q) in expected.items():
        maps = dynamics.predictor(fisher.by_name(name), net, x, at)
        np.testing.assert_allclose(maps.train_map, k, atol=1e-8)
        np.testing.assert_allclose(maps.test_map, q, atol=1e-8)
    # What is made of layers is refused, by the predictor and of the linearisation itself.
    with pytest.raises(NotPredictedError, match="only their product is known"):
        dynamics.predictor(fisher.by_name("kfac"), net, x, at)
    with pytest.raises(InputError, match="groups of parameters only"):
        fisher.by_name("kfac").function_space_map(infinite.linearize(net, x)[0], 0.0)
