"""kfac-jax as a rival: it trains the same objective, or the run says that it is not installed."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory import losses, networks
from ngd_theory.errors import InputError
from ngd_theory.networks import cnn, mlp, standard_parameterization
from ngd_theory.optim.rivals import KFACJax
from ngd_theory.optim.training import train

INSTALLED = importlib.util.find_spec("kfac_jax") is not None
NETWORK = networks.autoencoder(6, (5, 2))


def data():
    code = jax.random.normal(jax.random.key(0), (24, 2)) @ jax.random.normal(
        jax.random.key(1), (2, 6)
    )
    return jax.nn.sigmoid(code)


def rival(loss):
    return KFACJax(NETWORK, losses.by_name(loss), 1e-5, damping=1.0)


@pytest.mark.skipif(not INSTALLED, reason="kfac-jax is not installed")
@pytest.mark.parametrize("loss", ["mse", "sigmoid-cross-entropy"])
def test_it_descends_on_our_objective_and_leaves_the_given_parameters(loss):
    x, chosen = data(), losses.by_name(loss)
    params = networks.sparse_init(NETWORK, jax.random.key(2), scale=0.5)
    before = jax.tree.map(np.asarray, params)
    seen = []
    _, _, records = train(
        *(NETWORK, params, x, x, rival(loss), chosen),
        batch_sizes=[24] * 12,
        error=chosen.squared_error,
        record_every=1,
        on_record=seen.append,
    )
    first = float(chosen.value(NETWORK.apply(params, x), x))
    assert seen[1].objective == pytest.approx(first, rel=1e-5)
    assert records[-1].error < 0.9 * records[0].error
    jax.tree.map(np.testing.assert_array_equal, params, before)


@pytest.mark.skipif(INSTALLED, reason="kfac-jax is installed")
def test_a_run_without_the_package_says_what_to_install():
    x = jnp.ones((4, 6))
    params = NETWORK.init(jax.random.key(0))
    with pytest.raises(InputError, match="pip install kfac-jax"):
        rival("mse").begin(params, x, x)


@pytest.mark.parametrize(
    "network",
    [
        mlp(3, [4], 2),
        standard_parameterization(cnn((4, 4, 1), [2], 2)),
    ],
    ids=["NTK parameterisation", "convolutions"],
)
def test_networks_that_its_tracer_would_not_know_are_refused(network):
    with pytest.raises(InputError, match="layer 1 is"):
        KFACJax(network, losses.MSE, 0.0)
