"""KFC and K-FAC do not see affine maps of a network's inputs and activations (centring, whitening), undamped.

Channels go through an invertible affine map after every activation, and before the first layer, and the next
layer's parameters undo it: the same function in other coordinates. Its function-space map is then the same.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

import ngd_theory as ngd
from ngd_theory.networks import chain, linearize
from ngd_theory.networks.block import Block


class ChannelMap:
    """``h -> h S + m`` on the last axis."""

    def __init__(self, matrix, shift):
        self.matrix, self.shift = matrix, shift

    def __call__(self, h):
        return h @ self.matrix + self.shift


def random_map(rng, size):
    """Of condition number at most 9."""
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    return ChannelMap(left * rng.uniform(0.5, 4.5, size) @ right, rng.normal(size=size))


def undone(layer, params, change):
    """Parameters that do to ``change(h)`` what ``params`` do to h."""
    inverse = np.linalg.inv(change.matrix)
    weight = np.asarray(params["weight"]).reshape(-1, len(inverse), layer.units)
    new = np.einsum("cd,kdm->kcm", inverse, weight)
    moved = np.einsum("c,kcm->m", change.shift, new) * layer.scale / layer.bias_std
    return {
        "weight": jnp.asarray(new.reshape(layer.layout.weight_shape)),
        "bias": params["bias"] - moved,
    }


def reparameterised(net, params, x, rng):
    """The same function with other inputs, activations and parameters."""
    changes = [
        random_map(rng, size) for size in (x.shape[-1], *(b.affine.units for b in net.blocks[:-1]))
    ]
    blocks = []
    for block, change in zip(net.blocks[:-1], changes[1:], strict=True):
        phi, *others = block.after
        blocks.append(Block(block.affine, (phi, change, *others), linear=False))
    new = chain(net.input_shape, (*blocks, net.blocks[-1]), net.activation)
    new_params = tuple(
        undone(b.affine, p, change)
        for b, p, change in zip(net.blocks, params, changes, strict=True)
    )
    return new, new_params, changes[0](x)


NETWORKS = {
    "dense": (ngd.networks.mlp(4, [6, 5], 2, "tanh", bias_std=0.4), (4,)),
    "convolutions": (
        ngd.networks.cnn(
            (3, 4, 2), [4, 3], 2, 2, padding="circular", activation="tanh", bias_std=0.4
        ),
        (3, 4, 2),
    ),
    "valid, pooling": (
        ngd.networks.cnn(
            (5, 5, 2), [4, 3], 1, 2, 1, "valid", "tanh", "pool", bias_std=0.4, pool=[2, 1]
        ),
        (5, 5, 2),
    ),
}


def maps(name, seed, approximation, damping):
    net, shape = NETWORKS[name]
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(3, *shape)))
    params = net.init(jax.random.key(seed))
    other = reparameterised(net, params, x, rng)
    np.testing.assert_allclose(other[0].apply(*other[1:]), net.apply(params, x), atol=1e-10)
    return [
        approximation.function_space_map(linearize(*arguments), damping)
        for arguments in ((net, params, x), other)
    ]


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_undamped_maps_do_not_see_affine_maps_of_activations(name, seed):
    assert relative_error(*maps(name, seed, ngd.fisher.KFAC(), 0.0)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_damping_breaks_the_invariance_by_an_amount_that_vanishes_with_it(name):
    errors = [relative_error(*maps(name, 1, ngd.fisher.KFAC(), rho)) for rho in (1e-2, 1e-6, 1e-10)]
    assert errors[0] > 1e-2
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_gradient_descent_and_the_entry_wise_fisher_do_see_them():
    """The control."""
    for name in ("identity", "entry-wise", "unit-wise"):
        found = maps("convolutions", 1, ngd.fisher.by_name(name), 0.0)
        same = relative_error(*found) < 1e-6
        # A unit's own block is exact, so that it is invariant to maps of its inputs.
        assert same == (name == "unit-wise"), name
