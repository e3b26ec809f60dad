"""A network is a forward function over named affine layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ngd_theory.arguments import checked, is_floating, is_known
from ngd_theory.errors import InputError, NotPredictedError, shown
from ngd_theory.networks.calls import Call, Layers, traced_shapes
from ngd_theory.networks.checks import require_floating, require_size
from ngd_theory.networks.grouping import Parts
from ngd_theory.networks.layers import Layer
from ngd_theory.networks.sizes import LayerSize, plain_size


@dataclass(frozen=True)
class Network:
    """A network, in the NTK parameterisation unless stated otherwise. It is hashable and holds no parameters.

    Made by `network`, or by a constructor such as `mlp`.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of one sample.
    layers : tuple of (str, Layer)
        The affine layers by name, in the order of the parameters.
    function : ``(layers, x) -> (N, C)``
        The forward function; see `network`.
    activation : str
        Name of the hidden activation, for reports.
    smooth : bool
        Whether no map of the network is known to have a kink.
    vocabulary : int or None
        Number of tokens, if inputs are whole numbers (tokens).
    readout_scale : float
        Extra factor in the scales of the last layer, compared with the NTK parameterisation: 1/sqrt(M) for
        ``parameterization="mup"``. Kernels have its square.
    """

    made_by: ClassVar[str] = "ngd.networks.mlp(3, [64], 1), say"
    input_shape: tuple[int, ...]
    layers: tuple[tuple[str, Layer], ...] = field(repr=False)
    function: Callable[[Layers, Array], Array] = field(repr=False)
    activation: str = "identity"
    smooth: bool = False
    vocabulary: int | None = None
    readout_scale: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(name for name, _ in self.layers)

    @property
    def affine(self) -> tuple[Layer, ...]:
        """The layers without their names."""
        return tuple(layer for _, layer in self.layers)

    @property
    def blocks(self) -> tuple:
        """The blocks of a chain; raises `NotPredictedError` if the forward function is not a chain."""
        if not self.is_chain:
            raise NotPredictedError(_NO_CHAIN)
        return self.function.blocks  # pyright: ignore[reportFunctionMemberAccess]

    @property
    def is_chain(self) -> bool:
        """Whether the layers are called one after the other, with maps between them and nothing else."""
        return hasattr(self.function, "layer_sizes")

    @property
    def depth(self) -> int:
        """L, the number of affine layers. Each counts once, however often it is called."""
        return len(self.layers)

    @cached_property
    def layouts(self) -> tuple:
        """How the parameters are stored: one layout per layer, or one per part of a layer."""
        return tuple(layout for layer in self.affine for layout in layer.parts)

    @cached_property
    def parts(self) -> "Parts | None":
        """How the parameters are made from the parts of layers; None if each layer is one part."""
        return None if all(len(y.parts) == 1 for y in self.affine) else Parts(self.affine)

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """Every call of a layer, in the order of the forward function."""
        return self._structure[0]

    @cached_property
    def output_dim(self) -> int:
        """C, the number of outputs."""
        return self._structure[1]

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """T of each layer: its positions at all calls together."""
        counts = [0] * self.depth
        for call in self.calls:
            counts[call.layer] += int(np.prod([*call.steps, *call.shape[:-1]]))
        return tuple(counts)

    @cached_property
    def _structure(self) -> tuple[tuple[Call, ...], int]:
        """The calls and C. The forward function is traced; nothing is computed."""
        real = jnp.result_type(float)
        params = tuple(
            {k: jax.ShapeDtypeStruct(s, real) for k, s in layer.shapes.items()}
            for layer in self.affine
        )
        samples = 3
        dtype = jnp.int32 if self.vocabulary else real
        x = jax.ShapeDtypeStruct((samples, *self.input_shape), dtype)
        calls: list[Call] = []

        def trace(params, x):
            layers = Layers(self.names, self.affine, params)
            outputs = self.function(layers, x)
            calls[:] = layers.calls
            return outputs, layers.given

        try:
            outputs, given = traced_shapes(trace, params, x)
        except jax.errors.UnexpectedTracerError as error:
            raise InputError(_LEAKED) from error
        if getattr(outputs, "ndim", None) != 2 or outputs.shape[0] != samples:
            found = getattr(outputs, "shape", None) or jax.tree.structure(outputs)
            raise InputError(
                f"the forward function gives {found} for {samples} samples; it must give one array (N, C)"
            )
        for call, h in zip(calls, given, strict=True):
            if h.shape[len(call.steps)] != samples:
                raise InputError(
                    f"layer {self.names[call.layer]!r} is given an array of shape {h.shape} for {samples} samples: its "
                    "first axis must be the samples', and jax.vmap hides it: give Dense an array with more axes instead"
                )
        unused = set(range(self.depth)) - {call.layer for call in calls}
        if unused:
            never = ", ".join(repr(self.names[number]) for number in sorted(unused))
            raise InputError(f"the forward function never calls layer {never}: leave it out")
        return tuple(calls), outputs.shape[1]

    @cached_property
    def layer_sizes(self) -> tuple[LayerSize, ...]:
        """Sizes of the affine layers (of their parts, if they have several), first to last.

        For a chain of blocks they are counted from shapes; maps other than activations are examined at random points.
        If the theory knows no ranks, the sizes say why (`LayerSize.unknown`) and raise `NotPredictedError` when asked
        for a rank. `ngd_theory.theory.measured_sizes` measures ranks on a linearisation.
        """
        count = getattr(self.function, "layer_sizes", None)
        return self.plain_sizes(_NO_CHAIN) if count is None else count(self)

    def plain_sizes(self, unknown: str) -> tuple[LayerSize, ...]:
        """Sizes with shapes and positions only; ``unknown`` says why there are no ranks."""
        return tuple(
            plain_size(layout, positions, self.output_dim, unknown)
            for layer, positions in zip(self.affine, self.positions, strict=True)
            for layout in layer.parts
        )

    @cached_property
    def num_parameters(self) -> int:
        """Number of scalar parameters."""
        return sum(int(np.prod(s)) for layer in self.affine for s in layer.shapes.values())

    def with_layers(self, layers: Sequence[Layer]) -> "Network":
        """The same forward function over other layers, in the same order."""
        changed = getattr(self.function, "with_layers", None)
        return replace(
            self,
            layers=tuple(zip(self.names, layers, strict=True)),
            function=self.function if changed is None else changed(tuple(layers)),
        )

    @checked
    def init(self, key, dtype=None) -> tuple[dict[str, Array], ...]:
        """Draw parameters, every entry from N(0, 1) except the ones and zeros of `ScaleShift`.

        Parameters
        ----------
        key : jax.random key
        dtype : floating dtype, optional
            JAX's default float when None.

        Returns
        -------
        tuple of dict
            One per layer: ``{"weight": (fan_in, M)[, "bias": (M,)]}``, HWIO weights for convolutions.

        Raises
        ------
        InputError
            If ``key`` is not a key, or ``dtype`` not a floating type.
        """
        dtype = require_floating(dtype)
        keys = jax.random.split(key, self.depth)
        return tuple(y.init(k, dtype) for y, k in zip(self.affine, keys, strict=True))

    def apply(self, params, x: Shaped[Array, "N *S"]) -> Float[Array, "N C"]:
        """Network outputs f(x)."""
        self.check(params, x)
        return self.forward(params, x, None)[0]

    def forward(self, params, x, shifts) -> tuple[Array, list[Array]]:
        """Outputs, and the layer input at every call, with ``shifts`` added to the pre-activations.

        The derivative of the outputs with respect to ``shifts[i]`` is the sensitivity at call i.
        """
        layers = Layers(self.names, self.affine, params, shifts)
        outputs = self.function(layers, x)
        return outputs, layers.given

    def preactivations(self, params, given: Sequence[Array]) -> list[Array]:
        """Pre-activations at every call, (*steps, N, *shape), from the layer inputs that `forward` recorded."""
        found = []
        for call, h in zip(self.calls, given, strict=True):
            layer = partial(self.affine[call.layer], params[call.layer])
            for _ in call.steps:
                layer = jax.vmap(layer)
            found.append(layer(h))
        return found

    def zero_shifts(self, num_samples: int, dtype) -> list[Array]:
        """Shifts of the pre-activations, one per call: zeros (*steps, N, *shape)."""
        return [jnp.zeros((*c.steps, num_samples, *c.shape), dtype) for c in self.calls]

    def factors(self, given: Sequence[Array], deltas: Sequence[Array]) -> list[tuple]:
        """``(inputs (N, T, P), sensitivities (N, K, T, M), layout)`` of every layer, or part of one.

        Parameters
        ----------
        given : sequence of (*steps, N, ...) arrays
            The layer inputs that `forward` recorded, one per call.
        deltas : sequence of (K, *steps, N, *shape) arrays
            K cotangents of the outputs, pulled back to the pre-activations; one array per call.
        """
        by_layer: list[list] = [[] for _ in self.layers]
        for call, h, delta in zip(self.calls, given, deltas, strict=True):
            by_layer[call.layer] += _unrolled(h, delta, len(call.steps))
        return [
            found
            for layer, calls in zip(self.affine, by_layer, strict=True)
            for found in layer.factors(*zip(*calls, strict=True))
        ]

    def check(self, params, x) -> None:
        """Raise `InputError` unless ``params`` and ``x`` are arrays of this network's shapes and types.

        Parameters are a tuple of dicts, as `init` makes them: lists would be another pytree.
        """
        self._check_inputs(x)
        shape = x.shape
        if len(shape) != 1 + len(self.input_shape) or shape[1:] != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise InputError(f"inputs have shape {shape}; this network takes (N, {wanted})")
        if shape[0] == 0:
            raise InputError(f"inputs have shape {shape}: there is no sample")
        self.check_tree("parameters", params)

    def _check_inputs(self, x) -> None:
        if self.vocabulary is None:
            if not is_floating(x):
                raise InputError(
                    f"x is {shown(x)}; it must be a floating array: jax.numpy.asarray(x, float)"
                )
            return
        if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)):
            raise InputError(
                f"x is {shown(x)}; this network takes tokens, an array of whole numbers below {self.vocabulary}"
            )
        if is_known(x) and np.size(x) and not 0 <= np.min(x) <= np.max(x) < self.vocabulary:
            raise InputError(
                f"x has tokens from {np.min(x)} to {np.max(x)}; they must be from 0 to {self.vocabulary - 1}"
            )

    def check_tree(self, name: str, tree) -> None:
        """Raise `InputError` unless ``tree`` (plural ``name``) is like the parameters: floating, a tuple of dicts."""
        if type(tree) is not tuple:
            raise InputError(
                f"{name} are {shown(tree)}; they must be a tuple, one dict a layer, as network.init(key) gives it"
            )
        if len(tree) != self.depth:
            raise InputError(f"{name} of {len(tree)} layers for a network of {self.depth}")
        for index, (layer, given) in enumerate(zip(self.affine, tree, strict=True), start=1):
            where = f"{name} of layer {index}"
            if type(given) is not dict:
                raise InputError(
                    f'{where} are {shown(given)}; they must be a dict {{"weight": ...}}, as network.init(key) makes it'
                )
            for key, value in given.items():
                if not is_floating(value):
                    raise InputError(
                        f"{key!r} in the {where} is {shown(value)}; it must be a floating array"
                    )
            wanted = layer.shapes
            found = {key: value.shape for key, value in given.items()}
            if found != wanted:
                raise InputError(f"{where} have shapes {found}, not {wanted}")


@checked
def network(
    forward: Callable,
    layers: Mapping[str, Any],
    input_shape: Sequence[int],
    *,
    activation: str = "own",
    smooth: bool = False,
    vocabulary: int | None = None,
) -> Network:
    """Make a network from a forward function and its layers.

    Parameters
    ----------
    forward : ``(layers, x) -> (N, C)``
        It may call ``layers["name"](h)`` anywhere and any number of times: skip connections, branches, attention, tied
        weights. Any JAX function without parameters may stand between the calls. A loop that calls a layer is a Python
        loop or ``layers.scan``. Output n may depend on sample n only. A module's function can be pickled, a lambda not.
    layers : mapping from names to `Layer`
        `Dense`, `Convolution`, `Embedding`, `ScaleShift`, or one of your own. Parameters are a tuple in this order.
    input_shape : sequence of int
        Shape of one sample.
    activation : str
        Name of the hidden activation, for reports.
    smooth : bool
        Whether the function has derivatives of all orders. Claims about the order of the lazy family are then stricter
        (docs/theory.md section 8).
    vocabulary : int, optional
        Number of tokens, if inputs are tokens.

    Raises
    ------
    InputError
        For a layer that is never called or does not exist, outputs that are not (N, C), outputs that depend on other
        samples, or a layer called inside `jax.lax.scan`, `jax.vmap` or `jax.jit`.

    Examples
    --------
    >>> import jax
    >>> from ngd_theory.networks import Dense, network
    >>> def forward(layers, x):
    ...     h = layers["in"](x)
    ...     h = h + layers["hidden"](jax.nn.relu(h))
    ...     return layers["out"](jax.nn.relu(h))
    >>> net = network(forward, {"in": Dense(3, 8), "hidden": Dense(8, 8), "out": Dense(8, 1)}, (3,))
    >>> net.apply(net.init(jax.random.key(0)), jax.numpy.ones((5, 3))).shape
    (5, 1)
    """
    if not isinstance(layers, Mapping):
        raise InputError(f"layers is {shown(layers)}; it must be a dict of layers by name")
    for name, layer in layers.items():
        if not isinstance(name, str) or not isinstance(layer, Layer):
            raise InputError(
                f"layers[{shown(name)}] is {shown(layer)}; it must be a layer such as ngd.networks.Dense(3, 8), under "
                "a name that is a string"
            )
    if not layers:
        raise InputError("layers is empty; a network has one affine layer at least")
    if vocabulary is not None:
        require_size("vocabulary", vocabulary)
    shape = tuple(require_size(f"input_shape[{i}]", s) for i, s in enumerate(input_shape))
    made = Network(shape, tuple(layers.items()), forward, activation, smooth, vocabulary)
    _check_samples(made)
    return made


def _check_tokens(net: Network, params, x) -> None:
    """Raise `InputError` if an embedding is given a token beyond its vocabulary."""
    if net.vocabulary is None:
        return
    given = jax.jit(lambda params, x: net.forward(params, x, None)[1])(params, x)
    for call, h in zip(net.calls, given, strict=True):
        most = getattr(net.affine[call.layer], "vocabulary", None)
        if most is not None and (largest := int(jnp.max(h))) >= most:
            raise InputError(
                f"layer {net.names[call.layer]!r} has {most} tokens and is given token {largest}; the network's "
                f"vocabulary is {net.vocabulary}"
            )


def _check_samples(net: Network) -> None:
    """Raise `InputError` if the outputs of a sample depend on another sample, or are not finite."""
    if net.calls[-1].layer != net.depth - 1:
        last = net.names[net.calls[-1].layer]
        raise InputError(
            f"layers are in the order of the network: {last!r} is the last one called and must be the last of them"
        )
    rng = np.random.default_rng(0)
    if net.vocabulary:
        x = rng.integers(0, net.vocabulary, (3, *net.input_shape))
        x[0] = net.vocabulary - 1
    else:
        x = rng.normal(size=(3, *net.input_shape))
    with jax.ensure_compile_time_eval():
        params = net.init(jax.random.key(0))
        _check_tokens(net, params, jnp.asarray(x))

        def outputs(x, rows):
            return np.asarray(jax.jit(net.apply)(params, jnp.asarray(x[rows]))[0])

        # A function may be defined for positive inputs only.
        if not np.isfinite(first := outputs(x, [0, 1])).all():
            x = np.abs(x)
            first = outputs(x, [0, 1])
        second = outputs(x, [0, 2])
    if not np.isfinite(first).all():
        raise InputError(
            "the forward function gives NaN or infinity at random parameters and inputs, of both signs and positive"
        )
    # A NaN fails.
    if not np.max(np.abs(first - second)) <= 1e-4 * np.max(np.abs(first)) + 1e-6:
        raise InputError(
            "the outputs of a sample change with the other samples: no normalisation over the batch (take its running "
            "averages)"
        )


def _unrolled(h: Array, delta: Array, loops: int) -> list[tuple[Array, Array]]:
    """Split one call in ``loops`` nested loops into its steps: inputs (N, ...), sensitivities (K, N, ...)."""
    if not loops:
        return [(h, delta)]
    return [
        pair for step in range(h.shape[0]) for pair in _unrolled(h[step], delta[:, step], loops - 1)
    ]


_NO_CHAIN = (
    "sizes tell the ranks of a chain of blocks only (mlp, cnn, chain), and this network has a forward function of its "
    "own: theory.measured_sizes and theory.measured_constant measure them on a linearisation"
)
_LEAKED = (
    "a layer is called inside jax.lax.scan, jax.lax.map, jax.vmap or jax.jit of the forward function, where its input "
    "cannot be recorded: use layers.scan for loops; give Dense an array with more axes in place of vmap"
)
