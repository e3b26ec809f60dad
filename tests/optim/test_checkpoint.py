"""Saved and loaded: every bit, or an error that names the file and the leaf."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ngd_theory import losses, networks
from ngd_theory.errors import InputError
from ngd_theory.optim import kfac, load_state, save_state

NETWORK = networks.mlp(3, [4], 2, activation="tanh", bias_std=0.5)


def tree():
    return {
        "weights": [np.arange(6, dtype=np.float32).reshape(2, 3), jnp.asarray([True, False])],
        "count": jnp.asarray(3, jnp.int32),
        "none": None,
        "empty": (),
        "nan": jnp.asarray([np.nan, -0.0, np.inf]),
    }


def bits(value):
    """Leaves as their dtype, shape and bytes."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(value)]
    return [(a.dtype, a.shape, a.tobytes()) for a in arrays]


@pytest.mark.parametrize("structure", ["block-diagonal", "block-tridiagonal"])
def test_training_goes_on_bit_by_bit(structure, tmp_path):
    def optimizer():
        # Everything changes in seven steps: gamma, lambda, the inverses, the average.
        options = {"factor_damping_period": 4, "inverse_period": 5, "damping_period": 3}
        return kfac(NETWORK, structure=structure, damping=1.0, averaging=0.9, **options)

    update = optimizer().update

    @jax.jit
    def step(params, state, x):
        def loss(params):
            return losses.MSE.value(NETWORK.apply(params, x), x[:, :2])

        updates, state = update(jax.grad(loss)(params), state, params, x=x, y=x[:, :2])
        return optax.apply_updates(params, updates), state

    def train(params, state, batches):
        for number in batches:
            rows = np.random.default_rng(number).normal(size=(5, 3))
            params, state = step(params, state, jnp.asarray(rows))
        return params, state

    params = NETWORK.init(jax.random.key(0))
    straight = train(params, optimizer().init(params), range(7))
    path = tmp_path / "state"
    save_state(path, train(params, optimizer().init(params), range(3)))
    fresh = NETWORK.init(jax.random.key(1))
    params, state = load_state(path, (fresh, optimizer().init(fresh)))
    assert type(state) is type(straight[1]) and int(state.count) == 3
    assert bits(train(params, state, range(3, 7))) == bits(straight)
    assert os.listdir(tmp_path) == ["state"]


def test_every_bit_and_kind_of_array_comes_back(tmp_path):
    path = tmp_path / "a.npz"
    save_state(path, tree())
    found = load_state(os.fspath(path), tree())
    assert jax.tree.structure(found) == jax.tree.structure(tree())
    assert bits(found) == bits(tree())
    assert isinstance(found["weights"][0], np.ndarray) and isinstance(found["count"], jax.Array)
    # Shapes are enough.
    assert bits(load_state(path, jax.eval_shape(tree))) == bits(tree())
    with np.load(path, allow_pickle=False) as archive:
        names = ["['count']", "['nan']", "['weights'][0]", "['weights'][1]"]
        assert sorted(archive.files) == names


def test_a_tree_can_be_one_array(tmp_path):
    save_state(tmp_path / "a", np.arange(3))
    np.testing.assert_array_equal(load_state(tmp_path / "a", np.zeros(3, int)), np.arange(3))


def test_a_second_state_replaces_the_first(tmp_path):
    for value in (1.0, 2.0):
        save_state(tmp_path / "a", [np.full(2, value)])
    np.testing.assert_array_equal(load_state(tmp_path / "a", [np.zeros(2)])[0], [2.0, 2.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"count": np.zeros((), np.int64)},
            r"leaf \"\['count'\]\" is int32\[\] in .*and int64\[\]",
        ),
        ({"nan": np.zeros(2)}, r"leaf \"\['nan'\]\" is float64\[3\] in .*, and float64\[2\] here"),
        ({"other": np.zeros(2)}, r"a.npz has no leaf \"\['other'\]\"; it was saved from another"),
        ({"nan": None}, r"a.npz has a leaf \"\['nan'\]\" that is not wanted here"),
        # The first in the order of the tree.
        ({"nan": np.zeros(2), "count": np.zeros(2)}, r"leaf \"\['count'\]\""),
    ],
)
def test_another_structure_is_refused(change, message, tmp_path):
    path = tmp_path / "a.npz"
    save_state(path, tree())
    with pytest.raises(InputError, match=message):
        load_state(path, {**tree(), **change})


def test_another_structure_of_the_optimizer_is_refused(tmp_path):
    params = NETWORK.init(jax.random.key(0))
    diagonal, tridiagonal = (
        kfac(NETWORK, structure=s).init(params) for s in ("block-diagonal", "block-tridiagonal")
    )
    save_state(tmp_path / "a", diagonal)
    with pytest.raises(InputError, match=r"has no leaf '\.factors\.inputs\[0\]\[1\]'"):
        load_state(tmp_path / "a", tridiagonal)


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (lambda: jax.random.key(0), "key<fry>"),
        (lambda: jnp.zeros(2, jnp.bfloat16), "bfloat16"),
        (lambda: np.asarray([{}]), "object"),
        (lambda: 1.5, "float"),
        (lambda: "text", "str"),
    ],
)
def test_leaves_that_the_format_does_not_hold_are_refused(leaf, kind, tmp_path):
    with pytest.raises(InputError, match=rf"leaf '\[1\]' is of type {kind}, which an .npz file"):
        save_state(tmp_path / "a", [np.zeros(1), leaf()])
    assert os.listdir(tmp_path) == []


def test_damaged_files_are_refused(tmp_path):
    path, state = tmp_path / "a.npz", {"a": np.arange(3.0), "b": [np.ones((2, 2), np.int32)]}
    save_state(path, state)
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(0, len(whole), 7)]
    for place in range(0, len(whole), 5):
        damaged.append(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            found = load_state(path, state)
        except InputError as error:
            assert "a.npz" in str(error)
            refused += 1
        else:  # damage to a date, say
            assert bits(found) == bits(state)
    assert refused > 0.7 * len(damaged)
    path.unlink()
    with pytest.raises(InputError, match=r"cannot read .*a\.npz"):
        load_state(path, state)


def test_a_file_is_not_read_like_nothing(tmp_path):
    save_state(tmp_path / "a", tree())
    with pytest.raises(
        InputError, match="that is not wanted here: like is None, which has no array"
    ):
        load_state(tmp_path / "a", None)
