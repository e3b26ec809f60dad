"""Linearise a model of another library: factors for the layers that we know, groups for the other parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from ngd_theory.arguments import check_finite, checked, is_array, is_floating, is_known
from ngd_theory.errors import InputError, shown
from ngd_theory.networks.calls import traced_shapes
from ngd_theory.networks.layers import Layer
from ngd_theory.networks.layout import GroupLayout
from ngd_theory.networks.linearization import LayerLinearization, Linearization, require_precision
from ngd_theory.networks.models import equinox, linen, nnx
from ngd_theory.networks.models.known import Known, Place
from ngd_theory.networks.models.leaves import leaf_name, parent
from ngd_theory.networks.models.model import AnyModel
from ngd_theory.networks.models.tap import Tap, Tapped

#: Numbers with a smaller relative difference count as equal, because some layers always compute in float32.
SAME = float(jnp.finfo(jnp.float32).eps) ** 0.5
#: Modules that recognise a model of their library and make an `AnyModel` from it.
LIBRARIES = (equinox, linen, nnx)


@dataclass(frozen=True)
class ModelTree:
    """How the parameters of a model are made from those of its layers and groups.

    Attributes
    ----------
    structure : jax tree definition
        Structure of the parameters.
    leaves, dtypes : tuple of str
        Names and types of its leaves.
    layers : tuple of (Layer, tuple of Place)
        The layers that have factors.
    groups : tuple of tuple of str
        Names of the leaves of each group.
    """

    has_layers: ClassVar[bool] = True
    structure: Any
    leaves: tuple[str, ...]
    dtypes: tuple[str, ...]
    layers: tuple[tuple[Layer, tuple[Place, ...]], ...]
    groups: tuple[tuple[str, ...], ...]

    def join(self, found: Sequence[dict[str, Array]]):
        """Join one dict per group and per layer (or part of a layer) into a tree like the parameters."""
        rest = iter(found)
        leaves = {}
        for _ in self.groups:
            leaves |= next(rest)
        for layer, places in self.layers:
            params = layer.join([next(rest) for _ in layer.parts])
            leaves |= {place.leaf: place.to_leaf(params[place.key]) for place in places}
        ordered = [
            leaves[name].astype(dtype) for name, dtype in zip(self.leaves, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, ordered)

    def split(self, tree) -> list[dict[str, Array]]:
        """The inverse of `join`."""
        if jax.tree.structure(tree) != self.structure:
            raise InputError(
                f"a tree like the parameters is wanted, {self.structure}; got {jax.tree.structure(tree)}"
            )
        leaves = dict(zip(self.leaves, jax.tree.leaves(tree), strict=True))
        found = [{name: leaves[name] for name in names} for names in self.groups]
        for layer, places in self.layers:
            shapes = layer.shapes
            params = {p.key: p.from_leaf(leaves[p.leaf], shapes[p.key]) for p in places}
            found += layer.split(params)
        return found


@checked
def linearize_model(
    model,
    x: Shaped[Array, "N *S"],
    variables=None,
    *,
    groups: Sequence[str] = (),
) -> Linearization:
    """Linearise a model of equinox, flax.linen or flax.nnx about its parameters, layer by layer.

    Linear layers, convolutions and embeddings of these libraries become factors, in the order of their first calls.
    Every approximation works on them, also K-FAC and unit-wise. All other parameters (normalisation, positional
    encodings, layers of your own) become groups, which come first: one group, with its whole Jacobian, for each node
    that holds such parameters. `Linearization.describe` shows which is which.

    Parameters
    ----------
    model : equinox.Module, flax.linen.Module or flax.nnx.Module
        An equinox model takes one sample; the others take all samples, and output n must depend on sample n only.
        Dropout must be off, and batch normalisation must use its running averages (``equinox.nn.inference_mode``,
        ``model.eval()``).
    x : (N, *sample_shape)
        Floating, or whole numbers for a model that begins with an embedding.
    variables : dict, optional
        For a flax.linen module: the result of its ``init``. Only "params" are parameters.
    groups : sequence of str
        Layers to treat as groups: beginnings of their names, as `Linearization.describe` shows them.

    Returns
    -------
    Linearization
        Gradients are trees like the model's own parameters: ``equinox.filter(model, equinox.is_inexact_array)``,
        ``variables["params"]``, ``nnx.state(model, nnx.Param)``.

    Raises
    ------
    InputError
        For a model of another library, outputs that are not (N, C) or depend on other samples, or a state that changes
        (training mode). Also for a layer whose parameters are used outside its own call (tied weights), or that is
        called inside `jax.lax.scan`, `jax.checkpoint` or `jax.jit`: name such a layer in ``groups``. Checks that need
        numbers run only outside jit.
    """
    library = next((library for library in LIBRARIES if library.recognises(model)), None)
    if library is None:
        raise InputError(
            f"model is {shown(model)}; it must be a module of equinox, flax.linen or flax.nnx. For any other function "
            "take linearize_function(apply, params, x)"
        )
    if not is_array(x) or x.ndim == 0 or len(x) == 0:
        raise InputError(f"x is {shown(x)}; it must be an array with one sample at least")
    static, params, rest = library.split(model, variables)
    if not jax.tree.leaves(params):
        raise InputError(f"the model {type(model).__name__} has no floating parameters")
    check_finite("the model's parameters", params)
    if is_floating(x):
        check_finite("x", x)
    given = _Static(library, static), params, rest, jnp.asarray(x)
    lin = _linearize(*given, tuple(groups))
    _check_factors(given, lin)
    return lin


class _Static:
    """A model without its arrays, for `jax.jit`. Two are equal if their contents can be compared and are equal."""

    def __init__(self, library, value):
        self._library, self._value = library, value
        try:
            self._hash = hash(value)
        except TypeError:
            self._hash = None

    def __hash__(self):
        return id(self) if self._hash is None else self._hash

    def __eq__(self, other):
        if self is other:
            return True
        known = isinstance(other, _Static) and None not in (self._hash, other._hash)
        if not known or self._library is not other._library:
            return False
        try:
            return bool(self._value == other._value)
        except ValueError:  # it holds arrays
            return False

    def model(self, params, rest) -> AnyModel:
        """The model with its arrays."""
        return self._library.Model(self._value, params, rest)


@partial(jax.jit, static_argnums=(0, 4))
def _linearize(static: _Static, params, rest, x, groups: tuple[str, ...]) -> Linearization:
    model = static.model(params, rest)
    calls, known_layers = _calls(static, params, rest, x, groups)
    paths, structure = jax.tree_util.tree_flatten_with_path(model.params)
    leaves = {leaf_name(path): leaf for path, leaf in paths}
    _check_groups(groups, known_layers)
    # In the order of the calls: block-tridiagonal couples neighbours.
    factored = list(dict.fromkeys(call.layer for call in calls))
    taken = {place.leaf for number in factored for place in known_layers[number].places}
    others = {name: leaf for name, leaf in leaves.items() if name not in taken}

    def params_with(others):
        return jax.tree.unflatten(structure, [others.get(name, leaves[name]) for name in leaves])

    outputs, given, deltas, jacobian = _backpropagate(model, x, calls, others, params_with, groups)
    require_precision(outputs.dtype)
    layers, placed, names = [], [], []
    members: dict[str, list[str]] = {}
    for name in others:
        members.setdefault(parent(name, model.boxed), []).append(name)
    for node, group in members.items():
        columns = [jacobian[name].reshape(*outputs.shape, 1, -1) for name in group]
        layout = GroupLayout(tuple((name, tuple(leaves[name].shape)) for name in group))
        ones = jnp.ones((len(x), 1, 1), outputs.dtype)
        layers.append(LayerLinearization(ones, jnp.concatenate(columns, -1), layout))
        names.append(node or "model")
    for number in factored:
        known = known_layers[number]
        own = [i for i, call in enumerate(calls) if call.layer == number]
        layer, parts = known.factors([given[i] for i in own], [deltas[i] for i in own])
        placed.append((layer, known.places))
        layers += [LayerLinearization(*part) for part in parts]
        names += [f"{known.name or 'model'} ({known.kind})"] * len(parts)
    tree = ModelTree(
        structure,
        tuple(leaves),
        tuple(jnp.result_type(leaf).name for leaf in leaves.values()),
        tuple(placed),
        tuple(map(tuple, members.values())),
    )
    return Linearization(outputs, tuple(layers), tree, tuple(names))


def _over_samples(model: AnyModel, params_with, x, rest, tapped, groups, shifts=None, depths=()):
    """Outputs (N, C), every sample with its own copy of the leaves in ``rest``; no taps in ``groups``."""

    def one(sample, rest):
        tap = Tap(sample, tapped, shifts, depths)

        def chosen(number, given, made):
            in_group = _is_in(model.known[number].name, groups)
            return made if in_group else tap(number, given, made)

        return model.run(params_with(rest), sample, chosen)

    return jax.vmap(one)(x, rest)


def _calls(static: _Static, params, rest, x, groups) -> tuple[list[Tapped], list[Known]]:
    """Every call of a layer outside ``groups``, with shapes in place of arrays, and all layers that we know."""
    calls: list[Tapped] = []
    known: list[Known] = []

    def traced(groups):
        # All arrays are arguments, so a constant of the program must come from a trace that has ended.
        def trace(params, rest, x):
            model = static.model(params, rest)
            known[:] = []
            calls.clear()
            try:
                outputs = _over_samples(model, lambda _: model.params, x, {}, calls, groups)
            finally:
                known[:] = model.known
            if None in calls:
                raise jax.errors.UnexpectedTracerError("a call that no jax.vmap came to see")
            return outputs, [(call.given, call.made) for call in calls]

        return traced_shapes(trace, params, rest, x)

    def is_lost(name: str) -> bool:
        """Whether the input of this layer cannot be recorded, when all other layers are left out."""
        try:
            traced([*groups, *(other.name for other in layers if other.name != name)])
        except jax.errors.UnexpectedTracerError:
            return True
        return False

    try:
        outputs, arrays = traced(groups)
    except jax.errors.UnexpectedTracerError as error:
        layers = list(known)
        lost = [layer.name for layer in layers if is_lost(layer.name)]
        raise InputError(
            f"the model calls {', '.join(map(repr, lost))} inside jax.lax.scan, jax.checkpoint, jax.jit or the like, "
            f"where its input cannot be recorded. Treat it as a group: linearize_model(..., groups={lost})"
        ) from error
    if getattr(outputs, "ndim", None) != 2:
        raise InputError(
            f"the model gives {_shapes(outputs)} for {len(x)} samples; it must give one array (N, C)"
        )
    shapes = [
        Tapped(call.layer, call.depth, given, made)
        for call, (given, made) in zip(calls, arrays, strict=True)
    ]
    return shapes, known


def _backpropagate(
    model: AnyModel, x, calls: list[Tapped], rest: dict[str, Array], params_with, groups
):
    """Outputs; inputs and sensitivities (C, N, ...) of every call; Jacobian (N, C, ...) of every leaf in ``rest``."""
    n = len(x)
    shifts = [jnp.zeros(call.made.shape, call.made.dtype) for call in calls]
    rows = {name: jnp.broadcast_to(leaf, (n, *leaf.shape)) for name, leaf in rest.items()}
    depths = [call.depth for call in calls]

    def run(shifts, rows):
        tapped: list[Tapped] = []
        outputs = _over_samples(model, params_with, x, rows, tapped, groups, shifts, depths)
        return outputs, [call.given for call in tapped]

    outputs, pull, given = jax.vjp(run, shifts, rows, has_aux=True)
    c = outputs.shape[1]
    basis = jnp.broadcast_to(jnp.eye(c, dtype=outputs.dtype)[:, None], (c, n, c))
    deltas, jacobian = jax.vmap(pull)(basis)
    return outputs, given, deltas, {k: jnp.moveaxis(v, 0, 1) for k, v in jacobian.items()}


def _shapes(outputs) -> str:
    found = [str(leaf.shape) for leaf in jax.tree.leaves(outputs)]
    return found[0] if hasattr(outputs, "shape") else f"{len(found)} arrays, {', '.join(found)},"


def _is_in(name: str, groups: Sequence[str]) -> bool:
    return any(f"{name}/".startswith(f"{group}/") for group in groups)


def _check_groups(groups, known: Sequence[Known]) -> None:
    for group in groups:
        if not any(_is_in(layer.name, [group]) for layer in known):
            there = ", ".join(layer.name for layer in known)
            raise InputError(f"groups names {group!r}; the layers that have factors are {there}")


def _check_factors(given, lin: Linearization) -> None:
    """Raise `InputError` if a gradient differs from that of automatic differentiation; not inside jit."""
    _, params, rest, x = given
    if not all(map(is_known, jax.tree.leaves((lin.outputs, params, rest, x)))):
        return
    check_finite("the model's outputs", lin.outputs)
    cotangent = jax.random.normal(jax.random.key(0), lin.outputs.shape, lin.outputs.dtype)
    _check_outputs(given, lin.outputs)
    wanted, boxed = _gradient(*given, cotangent), given[0].model(params, rest).boxed
    found = lin.vjp(cotangent)
    paths = [leaf_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    pairs = zip(paths, jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True)
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(wanted))
    for name, there, here in pairs:
        allowed = SAME * float(jnp.max(jnp.abs(there))) + SAME**2 * 100 * scale
        # A NaN fails.
        if not float(jnp.max(jnp.abs(here - there))) <= allowed:
            layer = parent(name, boxed)
            raise InputError(
                f"the gradient by {name!r} is not the one that its layer's calls explain: the model uses it in another "
                f"way too, as tied weights do. Treat it as a group: linearize_model(..., groups=[{layer!r}])"
            )


def _check_outputs(given, found) -> None:
    """Raise `InputError` if the model gives other outputs when it is not compiled."""
    static, params, rest, x = given
    model = static.model(params, rest)
    if model.takes_batches:
        outputs = model.batch(params, x)
    else:
        outputs = jax.vmap(lambda sample: model.run(params, sample, _no_tap))(x)
    difference = float(jnp.max(jnp.abs(outputs - found)))
    # A NaN fails.
    if not difference <= SAME * float(jnp.max(jnp.abs(found))):
        raise InputError(
            f"the model's outputs differ by {difference:.1e} from those of each sample by itself: samples must not see "
            "each other (batch normalisation: use its running averages; dropout: switch it off), and what a module "
            "holds must not be changed in place after its first use (make a new one)"
        )


@partial(jax.jit, static_argnums=0)
def _gradient(static: _Static, params, rest, x, cotangent):
    """The gradient without any tap."""
    model = static.model(params, rest)

    def plain(params):
        return jax.vmap(lambda sample: model.run(params, sample, _no_tap))(x)

    _, pull = jax.vjp(plain, params)
    return pull(cotangent)[0]


def _no_tap(layer: int, given: Array, made: Array) -> Array:
    return made
