"""Models of flax and equinox, layer by layer: their factors are autodiff's Jacobian, approximations the dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError

eqx = pytest.importorskip("equinox")
pytest.importorskip("flax")
optax = pytest.importorskip("optax")

from flax import linen, nnx  # noqa: E402
from user_models import BUILDERS, F64, flat, user_problem  # noqa: E402

NAMES = tuple(BUILDERS)
ROWS = ("exact", "block-diagonal", "block-tridiagonal", "unit-wise", "entry-wise")
linearize_model = ngd.networks.linearize_model


def whole_inputs(layer):
    """Inputs (N, T, P), of an embedding one-hot over the whole vocabulary."""
    a = np.asarray(layer.inputs)
    if not isinstance(layer.layout, ngd.networks.EmbeddingLayout):
        return a
    found = np.zeros((*a.shape[:2], layer.layout.vocabulary))
    for place, token in enumerate(np.asarray(layer.layout.tokens)):
        if token < layer.layout.vocabulary:
            found[:, :, token] = a[:, :, place]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_factors_are_the_jacobian_of_automatic_differentiation(name):
    p = user_problem(name)
    np.testing.assert_allclose(p.lin.outputs, p.apply(p.params, p.x), atol=1e-12)
    assert len(p.lin.layers) == len(p.matrices)
    for layer, numbers in zip(p.lin.layers, p.matrices, strict=True):
        found = np.einsum("ntp,nctm->ncpm", whole_inputs(layer), np.asarray(layer.sensitivities))
        wanted = p.jacobian[:, numbers.ravel()]
        found = found.reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, atol=1e-10 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NAMES)
def test_products_are_with_the_jacobian_and_in_the_tree_of_the_model(name):
    p = user_problem(name)
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=p.lin.outputs.shape))
    gradient = p.lin.vjp(cotangent)
    assert jax.tree.structure(gradient) == jax.tree.structure(p.params)
    np.testing.assert_allclose(flat(gradient), np.ravel(cotangent) @ p.jacobian, atol=1e-10)
    pushed = np.ravel(p.lin.jvp(p.params))
    np.testing.assert_allclose(pushed, p.jacobian @ flat(p.params), atol=1e-10)


def blocks(method, p):
    """G, dense, in the order of the leaves."""
    n, size = p.lin.num_samples, p.jacobian.shape[1]
    fisher = p.jacobian.T @ p.jacobian / n
    part, unit = np.zeros(size), np.zeros(size)
    for number, numbers in enumerate(p.matrices):
        part[numbers] = number
        unit[numbers] = number + np.arange(numbers.shape[1]) / numbers.shape[1]
    masks = {
        "exact": np.ones_like(fisher),
        "block-diagonal": part[:, None] == part,
        "block-tridiagonal": abs(part[:, None] - part) <= 1,
        "unit-wise": unit[:, None] == unit,
        "entry-wise": np.eye(size),
    }
    return fisher * masks[method]


def kfac_gram(p, damping):
    """``(A + rho_A) (x) (B + rho_B)`` of every part, at the places of its parameters."""
    n = p.lin.num_samples
    gram = np.zeros((p.jacobian.shape[1],) * 2)
    for layer, numbers in zip(p.lin.layers, p.matrices, strict=True):
        a, delta = whole_inputs(layer), np.asarray(layer.sensitivities)
        t = a.shape[1]
        a, delta = a.reshape(n * t, -1), delta.reshape(-1, delta.shape[-1])
        moments = a.T @ a / n, delta.T @ delta / (n * t)
        damped = [m + damping * np.eye(len(m)) for m in moments]
        order = numbers.ravel()
        gram[np.ix_(order, order)] = np.kron(*damped)
    return gram


def check(method, p, gram, damping):
    """Natural gradient and both maps against one dense solve."""
    n = p.lin.num_samples
    solved = np.linalg.solve(gram, p.jacobian.T)
    for at, rows in ((None, p.jacobian), (p.at, p.jacobian_at)):
        found = method.function_space_map(p.lin, damping, at)
        wanted = rows @ solved / n
        assert np.linalg.norm(found - wanted) < 1e-8 * np.linalg.norm(wanted)
    residual = jnp.asarray(np.random.default_rng(3).normal(size=p.lin.outputs.shape))
    gradient = method.natural_gradient(p.lin, residual, damping)
    assert jax.tree.structure(gradient) == jax.tree.structure(p.params)
    wanted = solved @ np.ravel(residual) / n
    assert np.linalg.norm(flat(gradient) - wanted) < 1e-8 * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ROWS)
def test_every_approximation_equals_the_dense_one(name, method):
    p, damping = user_problem(name), 1e-2
    gram = blocks(method, p) + damping * np.eye(p.jacobian.shape[1])
    check(ngd.fisher.by_name(method), p, gram, damping)


@pytest.mark.parametrize("name", NAMES)
def test_kfac_equals_the_dense_one(name):
    p, damping = user_problem(name), 1e-2
    check(ngd.fisher.KFAC(damping_split="equal"), p, kfac_gram(p, damping**0.5), damping)


def loss_after(p, update):
    """Of the model with the update, the model's own way, by its library's means."""
    if isinstance(p.model, eqx.Module):
        model = eqx.apply_updates(p.model, update)
        return jnp.mean(jax.vmap(model)(p.x) ** 2)
    if isinstance(p.model, nnx.Module):
        model = nnx.clone(p.model)
        nnx.update(model, jax.tree.map(jnp.add, nnx.state(model, nnx.Param), update))
        return jnp.mean(model(p.x) ** 2)
    params = optax.apply_updates(p.variables["params"], update)
    return jnp.mean(p.model.apply({"params": params}, p.x) ** 2)


@pytest.mark.parametrize("method", ["exact", "kfac"])
@pytest.mark.parametrize("name", NAMES)
def test_one_step_in_the_tree_of_the_model_lowers_the_loss(name, method):
    p = user_problem(name)
    gradient = ngd.fisher.by_name(method).natural_gradient(p.lin, p.lin.outputs, 1e-2)
    step = 0.05 if method == "exact" else 0.05 / p.lin.num_samples
    after = [loss_after(p, jax.tree.map(lambda g, s=s: s * g, gradient)) for s in (-step, step)]
    before = float(jnp.mean(p.lin.outputs**2))
    assert after[0] < before < after[1]
    if method == "exact":
        np.testing.assert_allclose(after[0], before * (1 - step) ** 2, rtol=0.02)


def test_constants_are_measured():
    """The trace of K says the same as the ranks do, whatever the shape of the model."""
    p = user_problem("equinox CNN")
    for name in ("exact", "block-diagonal", "kfac"):
        method = ngd.fisher.by_name(name)
        k = method.function_space_map(p.lin, 0.0)
        alpha = ngd.theory.measured_constant(method, p.lin)
        np.testing.assert_allclose(np.trace(k) / len(k), alpha, rtol=1e-6)


def test_a_description_says_what_is_factored_and_what_is_a_group():
    lines = user_problem("equinox CNN").lin.describe().splitlines()
    assert "norm" in lines[1] and "a group" in lines[1]
    assert "first (equinox.nn.Conv)" in lines[2] and "factored, 16 positions" in lines[2]
    assert lines[3] != lines[4] and "grouped" in lines[3] and "grouped" in lines[4]
    assert "head" in lines[-1]
    assert len(lines) == 1 + len(user_problem("equinox CNN").lin.layers)
    text = user_problem("nnx tokens").lin.describe()
    # In the order of the calls; what is called twice has the positions of both.
    assert text.index("embed") < text.index("conv") < text.index("twice") < text.index("head")
    assert "factored, 6 positions" in text
    assert "positions (4, 4)" in user_problem("linen ViT").lin.describe()


# Models that go wrong, and some that do not.

X = jax.random.normal(jax.random.key(0), (3, 4))
TOKENS = jnp.arange(6).reshape(3, 2)
IMAGES = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))


class Linen(linen.Module):
    """A hidden part of some kind, and a readout."""

    hidden: object

    @linen.compact
    def __call__(self, x):
        return linen.Dense(2, name="head", **F64)(self.hidden(x))


def linen_lin(hidden, x=X, **options):
    model = Linen(hidden)
    return linearize_model(model, x, jax.jit(model.init)(jax.random.key(1), x), **options)


def tied_linen(x):
    embed = linen.Embed(6, 4, name="embed", **F64)
    return embed.attend(jnp.tanh(embed(x).mean(1)))


class TiedEquinox(eqx.Module):
    a: eqx.nn.Linear

    def __call__(self, x):
        return self.a.weight.T @ jnp.tanh(self.a(x))


class TiedNnx(nnx.Module):
    def __init__(self):
        self.e = nnx.Embed(6, 4, rngs=nnx.Rngs(0), **F64)

    def __call__(self, x):
        return self.e.attend(jnp.tanh(self.e(x).mean(1)))


def linear(*sizes):
    return eqx.nn.Linear(*sizes, key=jax.random.key(0))


def agrees(lin, apply, params):
    """Whether products with the Jacobian are autodiff's."""
    cotangent = jax.random.normal(jax.random.key(9), lin.outputs.shape)
    _, pull = jax.vjp(apply, params)
    np.testing.assert_allclose(flat(lin.vjp(cotangent)), flat(pull(cotangent)[0]), atol=1e-10)


@pytest.mark.parametrize(
    ("lin", "leaf"),
    [
        (lambda **o: linen_lin(tied_linen, TOKENS, **o), "embed/embedding"),
        (lambda **o: linearize_model(TiedEquinox(linear(4, 4)), X, **o), "a/weight"),
        (lambda **o: linearize_model(TiedNnx(), TOKENS, **o), "e/embedding"),
    ],
)
def test_tied_weights_are_noticed_and_become_a_group_if_asked(lin, leaf):
    node = leaf.partition("/")[0]
    with pytest.raises(InputError, match=rf"'{leaf}.*groups=\['{node}'\]"):
        lin()
    found = lin(groups=[node])
    assert f"{node}  " in found.describe() and "a group" in found.describe()


class Wrapped(eqx.Module):
    a: eqx.nn.WeightNorm
    b: eqx.nn.Linear

    def __call__(self, x):
        return self.b(jnp.tanh(self.a(x)))


class Shared(eqx.Module):
    both: eqx.nn.Shared
    b: eqx.nn.Linear

    def __call__(self, x):
        up, down = self.both()
        return down(jnp.tanh(self.b(jnp.tanh(up(x)))))


class SharedNnx(nnx.Module):
    def __init__(self):
        self.a, self.c, self.b = (nnx.Linear(4, 4, rngs=nnx.Rngs(i), **F64) for i in range(3))
        self.c.kernel = self.a.kernel

    def __call__(self, x):
        return self.b(jnp.tanh(self.c(jnp.tanh(self.a(x)))))


def shared_equinox():
    layers = (eqx.nn.Linear(*sizes, False, key=jax.random.key(2)) for sizes in ((4, 6), (6, 4)))
    shared = eqx.nn.Shared(
        tuple(layers), lambda pair: pair[1].weight, lambda pair: pair[0].weight.T
    )
    return Shared(shared, linear(6, 6))


@pytest.mark.parametrize(
    ("model", "groups", "nodes"),
    [
        (lambda: Wrapped(eqx.nn.WeightNorm(linear(4, 6)), linear(6, 2)), [], ("a/layer", "a")),
        (shared_equinox, [], ("both/pytree/0",)),
        (SharedNnx, ["a"], ("a", "c")),
    ],
    ids=["WeightNorm", "Shared", "nnx"],
)
def test_layers_that_wrap_or_share_parameters_are_groups(model, groups, nodes):
    model = model()
    lin = linearize_model(model, X, groups=groups)
    rows = [line.split()[1] for line in lin.describe().splitlines() if line.endswith("a group")]
    assert rows == list(nodes)
    assert sum("factored" in line for line in lin.describe().splitlines()) == 1
    if isinstance(model, eqx.Module):
        params, static = eqx.partition(model, eqx.is_inexact_array)
        agrees(lin, lambda p: jax.vmap(eqx.combine(p, static))(X), params)
    else:
        graph, params = nnx.split(model)
        agrees(lin, lambda p: nnx.merge(graph, p)(X), params)


def test_gradients_of_tied_weights_in_a_group_are_those_of_autodiff():
    model = TiedEquinox(linear(4, 4))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    lin = linearize_model(model, X, groups=["a"])
    agrees(lin, lambda p: jax.vmap(eqx.combine(p, static))(X), params)


class Stateful(nnx.Module):
    def __init__(self, layer):
        self.a, self.layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0), **F64), layer

    def __call__(self, x):
        return self.layer(self.a(x))


def batch_norm():
    return nnx.BatchNorm(4, rngs=nnx.Rngs(0), dtype=float, **F64)


def linen_batch_norm(average):
    return lambda x: linen.BatchNorm(use_running_average=average, **F64)(linen.Dense(4, **F64)(x))


@pytest.mark.parametrize(
    ("lin", "match"),
    [
        (lambda: linen_lin(linen_batch_norm(False)), "use_running_average=True"),
        (lambda: linearize_model(Stateful(batch_norm()), X), "samples must not see each other"),
        (
            lambda: linearize_model(Stateful(nnx.Dropout(0.5, rngs=nnx.Rngs(0))), X),
            "dropout: switch it off",
        ),
    ],
)
def test_training_mode_is_noticed(lin, match):
    with pytest.raises(InputError, match=match):
        lin()


def test_running_averages_are_no_parameters():
    model = Stateful(batch_norm())
    model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    lin = linearize_model(model, X)
    assert "layer" in lin.describe() and jax.tree.leaves(rest)
    agrees(lin, lambda p: nnx.merge(graph, p, rest)(X), params)
    module = Linen(linen_batch_norm(True))
    variables = module.init(jax.random.key(0), X)
    lin = linearize_model(module, X, variables)
    agrees(lin, lambda p: module.apply({**variables, "params": p}, X), variables["params"])


class Inside(eqx.Module):
    """A layer in a loop, a program or a checkpoint."""

    a: eqx.nn.Linear
    b: eqx.nn.Linear
    around: object = eqx.field(static=True)

    def __call__(self, x):
        return self.b(self.around(lambda h: jnp.tanh(self.a(h)))(x))


def in_scan(step):
    return lambda h: jax.lax.scan(lambda h, _: (step(h), None), h, length=2)[0]


class InsideNnx(nnx.Module):
    def __init__(self, around):
        self.around = around
        self.a = nnx.Linear(4, 4, rngs=nnx.Rngs(0), **F64)

    def __call__(self, x):
        return self.around(lambda a, h: a(h))(self.a, x)


@pytest.mark.parametrize(
    ("lin", "layer"),
    [
        (lambda **o: linearize_model(Inside(linear(4, 4), linear(4, 2), in_scan), X, **o), "a"),
        (lambda **o: linearize_model(Inside(linear(4, 4), linear(4, 2), jax.jit), X, **o), "a"),
        (
            lambda **o: linearize_model(Inside(linear(4, 4), linear(4, 2), jax.checkpoint), X, **o),
            "a",
        ),
        (lambda **o: linearize_model(InsideNnx(nnx.remat), X, **o), "a"),
        (lambda **o: linearize_model(InsideNnx(nnx.jit), X, **o), "a"),
        (
            lambda **o: linen_lin(lambda x: linen.remat(linen.Dense)(4, name="a", **F64)(x), **o),
            "a",
        ),
        (lambda **o: linen_lin(lambda x: linen.jit(linen.Dense)(4, name="a", **F64)(x), **o), "a"),
        (
            lambda **o: linen_lin(
                lambda x: linen.RNN(linen.SimpleCell(3, name="a", **F64))(x)[:, -1],
                jnp.stack([X] * 2, 1),
                **o,
            ),
            "a",
        ),
    ],
)
def test_layers_inside_loops_and_programs_are_named_and_become_groups_if_asked(lin, layer):
    with pytest.raises(InputError, match=rf"the model calls '{layer}.*groups=\['{layer}"):
        lin()
    assert "a group" in lin(groups=[layer]).describe()


class Stacked(linen.Module):
    @linen.compact
    def __call__(self, h, _):
        h = linen.Dense(4, **F64)(h)
        return jnp.tanh(linen.DenseGeneral((2, 2), **F64)(h)).reshape(-1, 4), None


def test_layers_stacked_for_a_scan_are_groups():
    layers = eqx.filter_vmap(lambda k: eqx.nn.Linear(4, 4, key=k))(
        jax.random.split(jax.random.key(0))
    )

    class Model(eqx.Module):
        layers: eqx.nn.Linear
        head: eqx.nn.Linear

        def __call__(self, x):
            arrays, static = eqx.partition(self.layers, eqx.is_array)
            body = lambda h, a: (jnp.tanh(eqx.combine(a, static)(h)), None)  # noqa: E731
            return self.head(jax.lax.scan(body, x, arrays)[0])

    model = Model(layers, linear(4, 2))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    lin = linearize_model(model, X)
    assert [line.split()[-1] for line in lin.describe().splitlines()[1:]] == ["group", "position"]
    agrees(lin, lambda p: jax.vmap(eqx.combine(p, static))(X), params)

    def hidden(x):
        options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": 2}
        return linen.scan(Stacked, **options)(name="stack")(x, None)[0]

    module = Linen(hidden)
    variables = jax.jit(module.init)(jax.random.key(0), X)
    lin = linearize_model(module, X, variables)
    assert "stack/Dense_0  " in lin.describe() and "stack/DenseGeneral_0  " in lin.describe()
    agrees(lin, lambda p: module.apply({"params": p}, X), variables["params"])


class OtherConvolutions(eqx.Module):
    a: eqx.nn.Conv2d
    b: eqx.nn.ConvTranspose2d
    head: eqx.nn.Linear

    def __call__(self, x):
        return self.head(self.b(self.a(x)).ravel())


def test_convolutions_that_are_not_ours_are_groups():
    keys = jax.random.split(jax.random.key(0), 2)
    model = OtherConvolutions(
        eqx.nn.Conv2d(1, 2, 3, padding=1, padding_mode="CIRCULAR", key=keys[0]),
        eqx.nn.ConvTranspose2d(2, 1, 2, key=keys[1]),
        linear(25, 2),
    )
    x = jnp.moveaxis(IMAGES, -1, 1)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    lin = linearize_model(model, x)
    assert lin.describe().count("a group") == 2
    agrees(lin, lambda p: jax.vmap(eqx.combine(p, static))(x), params)

    def hidden(x):
        h = linen.Conv(2, (3, 3), padding="CIRCULAR", **F64)(x)
        h = linen.ConvTranspose(2, (2, 2), **F64)(h)
        # One dimension on images: rows are mapped over. Then all of three axes at once.
        h = linen.Conv(2, (2,), strides=2, padding="SAME", name="rows", **F64)(h)
        return linen.DenseGeneral(3, axis=(-3, -2, -1), name="all", **F64)(h)

    module = Linen(hidden)
    variables = jax.jit(module.init)(jax.random.key(0), IMAGES)
    lin = linearize_model(module, IMAGES, variables)
    assert lin.describe().count("a group") == 2
    assert "rows (flax.linen.Conv)" in lin.describe()
    assert "all (flax.linen.DenseGeneral)" in lin.describe()
    agrees(lin, lambda p: module.apply({"params": p}, IMAGES), variables["params"])


def test_users_may_compile_and_map_it():
    module = linen.Dense(2, **F64)
    variables = module.init(jax.random.key(0), X)
    lin = linearize_model(module, X, variables)
    compiled = jax.jit(lambda v, x: linearize_model(module, x, v))(variables, X)
    kernels = [ngd.kernels.ntk(each) for each in (lin, compiled)]
    np.testing.assert_allclose(*kernels, atol=1e-12)
    doubled = jax.tree.map(lambda v: jnp.stack([v, 2 * v]), variables)
    several = jax.vmap(lambda v: linearize_model(module, X, v).outputs)(doubled)
    np.testing.assert_allclose(several[1], 2 * several[0], atol=1e-12)
    model = linear(4, 2)
    compiled = eqx.filter_jit(linearize_model)(model, X)
    np.testing.assert_allclose(compiled.outputs, jax.vmap(model)(X), atol=1e-12)
    assert jax.tree.structure(compiled.vjp(compiled.outputs)) == jax.tree.structure(
        eqx.filter(model, eqx.is_inexact_array)
    )


def broken(value):
    return eqx.tree_at(lambda layer: layer.weight, linear(4, 2), jnp.full((2, 4), value))


class Two(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x):
        return self.layer(x), self.layer(x)


@pytest.mark.parametrize(
    ("lin", "match"),
    [
        (
            lambda: linearize_model(jnp.tanh, X),
            "must be a module of equinox, flax.linen or flax.nnx",
        ),
        (
            lambda: linearize_model(linen.Dense(2), X),
            r"needs its variables: .*module.init\(key, x\)",
        ),
        (lambda: linearize_model(linen.Dense(2), X, {"kernel": X}), "needs its variables"),
        (lambda: linearize_model(linear(4, 2), X, groups=["b"]), "groups names 'b'"),
        (lambda: linearize_model(linear(4, 2), X, groups="b"), "groups is 'b'; it must be a seq"),
        (lambda: linearize_model(broken(np.nan), X), "weight has a NaN or infinity at index"),
        (lambda: linearize_model(linear(4, 2), X * jnp.inf), "x has a NaN or infinity"),
        (lambda: linearize_model(eqx.nn.Lambda(jnp.tanh), X), "Lambda has no floating parameters"),
        (lambda: linearize_model(linear(4, 2), X[:0]), "one sample at least"),
        (lambda: linearize_model(Two(linear(4, 2)), X), r"2 arrays, .*one array \(N, C\)"),
        (
            lambda: linearize_model(
                linen.Dense(2, **F64), IMAGES, linen.Dense(2, **F64).init(jax.random.key(0), IMAGES)
            ),
            r"\(2, 4, 4, 2\) for 2 samples; it must give one array \(N, C\)",
        ),
    ],
)
def test_wrong_models_are_answered_in_words(lin, match):
    with pytest.raises(InputError, match=match):
        lin()


class Options:
    def __init__(self):
        self.scale = 1.0


class Changed(eqx.Module):
    head: eqx.nn.Linear
    options: Options = eqx.field(static=True)

    def __call__(self, x):
        return self.options.scale * self.head(x)


def test_a_model_that_is_changed_in_place_is_noticed():
    model = Changed(linear(4, 2), Options())
    linearize_model(model, X)
    model.options.scale = 2.0
    with pytest.raises(InputError, match="changed in place"):
        linearize_model(model, X)


def test_a_part_that_computes_in_float32_is_no_fault():
    class Half(eqx.Module):
        first: eqx.nn.Linear
        head: eqx.nn.Linear

        def __call__(self, x):
            h = jax.nn.softmax(self.first(x).astype(jnp.float32)).astype(x.dtype)
            return self.head(h)

    lin = linearize_model(Half(linear(4, 6), linear(6, 2)), X)
    assert len(lin.layers) == 2
