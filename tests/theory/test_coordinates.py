"""The coordinate check: against one written apart in NumPy, exponents of made-up numbers, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError, SingularKernelError
from ngd_theory.theory import CoordinateCheck, coordinate_check, feature_changes

N, DIM, C = 4, 6, 2
WIDTHS, SEEDS = (8, 12), (0, 3)
SCALE, STEPS, DAMPING = 0.5, 2, 1e-3
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, DIM)), RNG.normal(size=(N, C))


def builder(parameterization="mup", depth=3):
    def build(m):
        hidden = [m] * (depth - 1)
        return ngd.networks.mlp(DIM, hidden, C, "tanh", 1.2, 0.3, parameterization=parameterization)

    return build


def layers(params, m, mup):
    """Pre-activations and features of a tanh perceptron in NumPy; (N, M) arrays."""
    h, made, seen = X, [], []
    for index, (w, b) in enumerate(params):
        scale = m**-0.5 if mup and index == len(params) - 1 else 1.0
        u = scale * (1.2 / np.sqrt(w.shape[0]) * h @ w + 0.3 * b)
        h = np.tanh(u)
        made.append(u)
        seen.append(h)
    return made, seen[:-1]


def derivative(params, m, mup, eps=1e-6):
    """J (NC, P) of the outputs by central differences."""
    sizes = [np.size(v) for layer in params for v in layer]
    flat = np.concatenate([np.ravel(v) for layer in params for v in layer])

    def outputs(flat):
        pieces = iter(np.split(flat, np.cumsum(sizes)[:-1]))
        rebuilt = [tuple(next(pieces).reshape(v.shape) for v in layer) for layer in params]
        return layers(rebuilt, m, mup)[0][-1].ravel()

    columns = []
    for i in range(len(flat)):
        step = np.zeros_like(flat)
        step[i] = eps
        columns.append((outputs(flat + step) - outputs(flat - step)) / (2 * eps))
    return np.stack(columns, axis=1), flat, outputs, sizes


def dense_check(m, seed, mup, exact):
    """Relative changes after each step of dense natural gradient descent (exact), or of gradient descent."""
    net = builder("mup" if mup else "ntk")(m)
    params = [
        (np.asarray(y["weight"]), np.asarray(y["bias"])) for y in net.init(jax.random.key(seed))
    ]
    first = layers(params, m, mup)
    found, eta, rho = [], None, np.nan
    for _ in range(STEPS):
        jacobian, flat, outputs, sizes = derivative(params, m, mup)
        theta = jacobian @ jacobian.T / N
        if eta is None:
            rho = DAMPING * np.trace(theta) / (N * C)
            k = theta @ np.linalg.inv(theta + rho * np.eye(N * C)) if exact else theta
            eta = SCALE / np.linalg.eigvalsh(k)[-1]
        gradient = jacobian.T @ (outputs(flat) - Y.ravel()) / N
        if exact:
            fisher = jacobian.T @ jacobian / N
            gradient = np.linalg.solve(fisher + rho * np.eye(len(fisher)), gradient)
        pieces = iter(np.split(flat - eta * gradient, np.cumsum(sizes)[:-1]))
        params = [tuple(next(pieces).reshape(v.shape) for v in layer) for layer in params]
        now = layers(params, m, mup)
        found.append(
            [
                [(rms(b - a), rms(a)) for a, b in zip(old, new, strict=True)]
                for old, new in zip(first, now, strict=True)
            ]
        )
    return found, eta


def rms(x):
    return np.sqrt(np.mean(x**2))


@pytest.fixture(scope="module", params=["ntk", "mup"])
def check(request):
    approximations = [ngd.fisher.Identity(), ngd.fisher.Exact()]
    how = {"widths": WIDTHS, "seeds": SEEDS, "num_steps": STEPS}
    data = jnp.asarray(X), jnp.asarray(Y)
    found = coordinate_check(
        builder(request.param), *data, approximations, **how, step_scale=SCALE, damping=DAMPING
    )
    return request.param, found


def test_it_is_the_one_written_in_numpy(check):
    name, found = check
    assert found.features.shape == (2, 2, 2, STEPS, 2)
    assert found.preactivations.shape == (2, 2, 2, STEPS, 3)
    for a, exact in enumerate((False, True)):
        for w, m in enumerate(WIDTHS):
            for s, seed in enumerate(SEEDS):
                expected, eta = dense_check(m, seed, name == "mup", exact)
                assert found.step_sizes[a, w, s] == pytest.approx(eta, rel=1e-6)
                for t, (made, seen) in enumerate(expected):
                    where = a, w, s, t
                    for kind, pairs in (("preactivations", made), ("features", seen)):
                        changes = np.array([change for change, _ in pairs])
                        start = np.array([size for _, size in pairs])
                        # Central differences have ten digits.
                        np.testing.assert_allclose(found.changes(kind, False)[where], changes, 1e-5)
                        np.testing.assert_allclose(
                            found.changes(kind)[where], changes / start, 1e-5
                        )


def test_changes_are_root_mean_squares_over_samples_positions_and_units():
    net = ngd.networks.cnn((4, 4, 2), [3, 5], 2, activation="tanh", bias_std=0.1, pool=2)
    before, after = (net.init(jax.random.key(i)) for i in range(2))
    x = jax.random.normal(jax.random.key(2), (3, 4, 4, 2))
    found = feature_changes(net, before, after, x)
    given = [
        [np.asarray(h, np.float64) for h in net.forward(params, x, None)[1]]
        for params in (before, after)
    ]
    for layer in (1, 2):
        old, new = (hs[layer] for hs in given)
        assert float(found.features[layer - 1]) == pytest.approx(rms(new - old), rel=1e-12)
        assert float(found.initial_features[layer - 1]) == pytest.approx(rms(old), rel=1e-12)
    outputs = [np.asarray(net.apply(params, x)) for params in (before, after)]
    assert float(found.preactivations[-1]) == pytest.approx(rms(outputs[1] - outputs[0]), rel=1e-12)
    relative = np.asarray(found.preactivations) / np.asarray(found.initial_preactivations)
    np.testing.assert_allclose(found.relative_preactivations, relative, rtol=1e-15)
    # Not the mean over samples of norms, which is larger for more units.
    assert float(found.features[-1]) < np.linalg.norm(given[1][2] - given[0][2])


def test_a_layer_that_is_called_in_a_loop_has_all_its_calls_in_one_mean():
    net = ngd.networks.recurrent(3, 2, 5, 1, "tanh")
    before, after = (net.init(jax.random.key(i)) for i in range(2))
    x = jax.random.normal(jax.random.key(2), (4, *net.input_shape))
    found = feature_changes(net, before, after, x)
    assert found.preactivations.shape == (3,) and found.features.shape == (2,)
    made = [net.preactivations(p, net.forward(p, x, None)[1]) for p in (before, after)]
    for layer in range(3):
        old, new = (
            np.concatenate(
                [np.ravel(u) for u, call in zip(us, net.calls, strict=True) if call.layer == layer]
            )
            for us in made
        )
        assert float(found.preactivations[layer]) == pytest.approx(rms(new - old), rel=1e-12)


def test_nothing_changes_where_nothing_moves():
    net = builder()(8)
    params = net.init(jax.random.key(0))
    found = jax.jit(feature_changes, static_argnums=0)(net, params, params, jnp.asarray(X))
    assert not np.any(found.features) and not np.any(found.preactivations)


def test_the_features_of_a_linear_model_are_its_inputs():
    net = ngd.networks.mlp(DIM, [], 1)
    params = net.init(jax.random.key(0))
    found = feature_changes(net, params, params, jnp.asarray(X))
    assert found.features.shape == (0,) and found.preactivations.shape == (1,)


def made_up(exponents, seeds=5, noise=0.0):
    """A check whose features change as M to these powers, one a layer."""
    rng, widths = np.random.default_rng(1), (64, 128, 256)
    m = np.array(widths, float)[None, :, None, None, None]
    shape = (1, 3, seeds, 2, len(exponents))
    changes = m ** np.array(exponents) * np.exp(noise * rng.standard_normal(shape))
    # After the first step nothing depends on the width.
    changes[:, :, :, 0] = 0.7
    names = tuple(map(str, range(len(exponents) + 1)))
    empty = np.full((*shape[:-1], len(exponents) + 1), np.nan)
    return CoordinateCheck(
        *(("exact",), widths, tuple(range(seeds)), names),
        preactivations=empty,
        features=2 * changes,
        relative_preactivations=empty,
        relative_features=changes,
        step_sizes=np.ones(shape[:3]),
    )


def test_exponents_of_exact_power_laws_are_exact():
    found = made_up((-0.5, 0.0, -1.0))
    for relative in (True, False):
        (estimates,) = found.exponents(relative=relative).values()
        assert [e.value for e in estimates] == pytest.approx([-0.5, 0.0, -1.0], abs=1e-12)
        assert all(e.high - e.low < 1e-10 for e in estimates)
    assert found.exponents(step=0)["exact"][0].value == pytest.approx(0.0, abs=1e-12)


def test_intervals_hold_the_exponent_of_noisy_numbers_and_not_a_wrong_one():
    (estimate,) = made_up((-0.5,), seeds=8, noise=0.05).exponents()["exact"]
    assert estimate.low < -0.5 < estimate.high < -0.3
    assert not estimate.low < 0 < estimate.high


def test_what_is_no_number_has_no_exponent_and_two_seeds_no_interval():
    found = made_up((-0.5, -0.5))
    broken = found.relative_features.copy()
    broken[0, 1, 2, 1, 0] = np.nan
    (first, second) = replace(found, relative_features=broken).exponents()["exact"]
    assert np.isnan(first.value) and first.high == np.inf
    assert second.value == pytest.approx(-0.5)
    (estimate,) = made_up((-0.5,), seeds=2).exponents()["exact"]
    assert estimate.low == -np.inf and estimate.high == np.inf
    (nothing, *_) = found.exponents("preactivations")["exact"]
    assert np.isnan(nothing.value)


@pytest.mark.slow
def test_features_move_as_the_root_of_the_width_in_one_and_at_every_width_in_the_other():
    rng = np.random.default_rng(5)
    x, y = jnp.asarray(rng.normal(size=(8, 16))), jnp.asarray(rng.normal(size=(8, 1)))
    approximations = [ngd.fisher.Exact(), ngd.fisher.KFAC()]
    how = {"widths": (64, 128, 256, 512), "seeds": range(4), "num_steps": 2}
    for name, power in (("ntk", -0.5), ("mup", 0.0)):

        def build(m, name=name):
            return ngd.networks.mlp(16, [m, m], 1, "tanh", 1.0, parameterization=name)

        found = coordinate_check(build, x, y, approximations, **how)
        for estimates in found.exponents().values():
            assert [e.value for e in estimates] == pytest.approx([power] * 2, abs=0.15)
            assert all(e.high - e.low < 0.6 for e in estimates)
        # The outputs move by order 1 in both: neither as M^(-1/2) nor as M^(1/2).
        for estimates in found.exponents("preactivations", relative=False).values():
            assert estimates[-1].value == pytest.approx(0.0, abs=0.25)


def refused(**changes):
    how = {"widths": WIDTHS, "seeds": (0,), **changes}
    build, x, y = (how.pop(k, v) for k, v in (("build", builder()), ("x", X), ("y", Y)))
    approximations = how.pop("approximations", [ngd.fisher.Exact()])
    return coordinate_check(build, jnp.asarray(x), jnp.asarray(y), approximations, **how)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": ()}, "widths are none; give at least one, each once"),
        ({"widths": (8, 8)}, "widths are 8, 8"),
        ({"widths": (8, 0)}, r"widths\[1\] is 0"),
        ({"seeds": (1, 1)}, "seeds are 1, 1"),
        ({"approximations": []}, "approximations are none"),
        ({"approximations": ["exact"]}, r"approximations\[0\] is 'exact'"),
        ({"approximations": [ngd.fisher.Exact()] * 2}, "approximations are exact, exact"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"step_scale": 0.0}, "step_scale is 0.0"),
        ({"step_scale": float("nan")}, "step_scale is nan"),
        ({"damping": -1.0}, "damping is -1.0"),
        ({"y": Y[:, :1]}, "targets"),
        ({"x": X[:, :3]}, "inputs have shape"),
        ({"build": lambda m: m}, r"build\(8\) is 8; it must be of type Network"),
        (
            {"build": lambda m: builder(depth=2 + m // 12)(m)},
            r"the layers of build\(12\) are 1, 2, 3, those of build\(8\) 1, 2",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        refused(**changes)


def test_questions_that_have_no_answer_are_refused():
    found = made_up((-0.5,))
    with pytest.raises(
        InputError, match="unknown kind of change 'weights'; choose one of: features"
    ):
        found.changes("weights")
    with pytest.raises(InputError, match=r"step is 2; 2 were made: give an index from -2 to 1"):
        found.exponents(step=2)
    one = replace(found, widths=(64,), relative_features=found.relative_features[:, :1])
    with pytest.raises(InputError, match="at least two different x"):
        one.exponents()


def test_parameters_that_are_no_numbers_are_named():
    with pytest.raises(SingularKernelError, match=r"exact.*after step 1 at width 8, seed 0"):
        refused(step_scale=1e308)
