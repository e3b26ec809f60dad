"""The coordinate check: how the effect of training on each layer depends on the width (docs/theory.md section 11)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ngd_theory.arguments import checked, require_known
from ngd_theory.errors import InputError, SingularKernelError, choose, require_type
from ngd_theory.estimates import Estimate, power_law
from ngd_theory.fisher import Approximation
from ngd_theory.fisher.damping import as_damping
from ngd_theory.kernels import ntk
from ngd_theory.losses import MSE
from ngd_theory.networks import Network, linearize
from ngd_theory.networks.checks import require_size
from ngd_theory.theory.constants import largest_monotone_step_size
from ngd_theory.theory.features import FeatureChanges, feature_changes

#: What changes, and the attributes of `CoordinateCheck` that hold it, absolute and relative.
KINDS = {
    "features": ("features", "relative_features"),
    "preactivations": ("preactivations", "relative_preactivations"),
}


@dataclass(frozen=True)
class CoordinateCheck:
    """What `coordinate_check` found: root mean squares over samples, positions and units.

    The axes of the arrays are approximations A, widths W, seeds S, steps T (after 1 .. T updates) and layers.

    Attributes
    ----------
    approximations : tuple of str
    widths, seeds : tuple of int
    layers : tuple of str
        Names, first to last.
    preactivations : (A, W, S, T, L) array
        ``rms(u_l(t) - u_l(0))``.
    features : (A, W, S, T, L - 1) array
        ``rms(h_l(t) - h_l(0))``, with h_l the input of layer l + 1.
    relative_preactivations, relative_features : like these
        Divided by ``rms(u_l(0))`` and ``rms(h_l(0))``.
    step_sizes : (A, W, S) array
        eta.
    """

    made_by: ClassVar[str] = "ngd.theory.coordinate_check(...)"
    approximations: tuple[str, ...]
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    layers: tuple[str, ...]
    preactivations: np.ndarray
    features: np.ndarray
    relative_preactivations: np.ndarray
    relative_features: np.ndarray
    step_sizes: np.ndarray

    @checked
    def changes(self, of: str = "features", relative: bool = True) -> np.ndarray:
        """One of the four arrays.

        Parameters
        ----------
        of : {"features", "preactivations"}
        relative : bool
            Whether to divide by the initial root mean square.
        """
        return getattr(self, choose(KINDS, of, "kind of change")[relative])

    @checked
    def exponents(
        self, of: str = "features", relative: bool = True, step: int = -1
    ) -> dict[str, tuple[Estimate, ...]]:
        """Exponents in M after some steps, with intervals over seeds, for each approximation and layer.

        An exponent is the log-log slope over widths, averaged over seeds. It is NaN if a change is 0 or not finite.
        The interval is infinite for fewer than three seeds.

        Parameters
        ----------
        of, relative
            As in `changes`.
        step : int
            An index of the axis of steps: 0 is the first update, -1 the last.

        Raises
        ------
        InputError
            For an unknown ``of``, a step that was not made, and fewer than two widths.
        """
        found = self.changes(of, relative)
        made = found.shape[3]
        if not -made <= step < made:
            raise InputError(
                f"step is {step}; {made} were made: give an index from {-made} to {made - 1}"
            )
        x, seed = (v.ravel() for v in np.meshgrid(self.widths, self.seeds, indexing="ij"))
        return {
            name: tuple(
                power_law(x, found[a, :, :, step, layer].ravel(), seed)
                for layer in range(found.shape[4])
            )
            for a, name in enumerate(self.approximations)
        }


@checked
def coordinate_check(
    build: Callable[[int], Network],
    x: Shaped[Array, "N *S"],
    y: Float[Array, "N C"],
    approximations: Sequence[Approximation],
    *,
    widths: Sequence[int],
    seeds: Sequence[int] = (0, 1, 2),
    num_steps: int = 3,
    step_scale: float = 0.5,
    damping: float = 1e-8,
) -> CoordinateCheck:
    """Train networks of several widths under MSE, and measure how far each layer's coordinates move.

    After Yang & Hu (2021). In a parameterisation that learns features at every width (``"mup"``) the changes are of
    order 1 in every layer. In the NTK parameterisation the changes of the features fall as M^(-1/2), and only those of
    the outputs are of order 1.

    The step size is ``eta = step_scale / lambda_max(K)``, with K the map at the start. If ``K = alpha I`` that is
    ``step_scale / alpha``; for gradient descent it is inversely proportional to the kernel. The damping is proportional
    to the kernel, ``rho = damping tr(Theta)/(NC)`` with ``Theta = J J^T/N``; K-FAC takes the square of ``damping``
    (`Approximation.matched_damping`). So both mean the same at every width. They also mean the same in both
    parameterisations if G has the kernel's 1/M once in every layer (docs/theory.md section 11).

    Parameters
    ----------
    build : ``width -> Network``
        For example ``lambda m: ngd.networks.mlp(8, [m, m], 1, "tanh", 1.0, parameterization="mup")``.
    x : (N, *input_shape)
    y : (N, C)
    approximations : sequence of Approximation
        ``ngd.fisher.Identity()`` is gradient descent.
    widths : sequence of int
        M; the layers must be the same at each.
    seeds : sequence of int
        Seeds of the parameters, at least three for intervals.
    num_steps : int
        T.
    step_scale, damping : float
        See above. A damping of 0 is the limit rho -> 0.

    Returns
    -------
    CoordinateCheck

    Raises
    ------
    InputError
        For repeated approximations, widths or seeds, none of them, networks of different layers, data that do not fit,
        and inside jit, vmap or grad.
    SingularKernelError
        If parameters are no longer finite; the message names approximation, width, seed and step.

    Examples
    --------
    >>> import jax, ngd_theory as ngd
    >>> x = jax.random.normal(jax.random.key(0), (4, 8))
    >>> def build(m):
    ...     return ngd.networks.mlp(8, [m, m], 1, "tanh", 1.0, parameterization="mup")
    >>> found = coordinate_check(build, x, x[:, :1], [ngd.fisher.Exact()], widths=(16, 32), num_steps=1)
    >>> found.relative_features.shape
    (1, 2, 3, 1, 2)
    """
    require_known("coordinate_check", x, y, step_scale, damping)
    names = _distinct("approximations", [approximation.name for approximation in approximations])
    sizes = _distinct("widths", [require_size(f"widths[{i}]", m) for i, m in enumerate(widths)])
    draws = _distinct("seeds", [int(seed) for seed in seeds])
    num_steps = require_size("num_steps", num_steps)
    if not 0 < step_scale < float("inf"):
        raise InputError(f"step_scale is {step_scale}; it must be positive and finite")
    as_damping(damping)
    networks = [build(m) for m in sizes]
    for m, network in zip(sizes, networks, strict=True):
        require_type(f"build({m})", network, Network, Network.made_by)
        if network.names != networks[0].names:
            raise InputError(
                f"the layers of build({m}) are {', '.join(network.names)}, those of build({sizes[0]}) "
                f"{', '.join(networks[0].names)}: only the width may change"
            )
    x = jnp.asarray(x)
    runs = [
        [
            [_run(network, x, y, a, (m, seed), num_steps, step_scale, damping) for seed in draws]
            for m, network in zip(sizes, networks, strict=True)
        ]
        for a in approximations
    ]
    kinds = [name for pair in KINDS.values() for name in pair]
    arrays = {
        kind: np.array(
            [[[[getattr(c, kind) for c in run] for run, _ in w] for w in a] for a in runs]
        )
        for kind in kinds
    }
    etas = np.array([[[eta for _, eta in w] for w in a] for a in runs])
    return CoordinateCheck(names, sizes, draws, networks[0].names, step_sizes=etas, **arrays)


def _run(
    network: Network, x, y, approximation, of: tuple[int, int], num_steps, step_scale, damping
) -> tuple[list[FeatureChanges], float]:
    """The changes after every step of one run, and its step size; ``of``: width and seed, for errors."""
    width, seed = of
    start = params = network.init(jax.random.key(seed), jnp.result_type(x, float))
    lin = linearize(network, start, x)
    MSE.check(lin.outputs, y)
    mean = float(jnp.trace(ntk(lin))) / (lin.num_samples * lin.outputs.size)
    rho = as_damping(approximation.matched_damping(damping) * mean, lin.outputs.dtype)
    k = approximation.function_space_map(lin, rho)
    eta = jnp.asarray(step_scale, k.dtype) * largest_monotone_step_size(k)
    found = []
    for step in range(1, num_steps + 1):
        params, finite = _step(network, params, x, y, approximation, eta, rho)
        if not bool(finite):
            raise SingularKernelError(
                f"{approximation.name}: the parameters are not finite after step {step} at width {width}, seed {seed}: "
                "lower step_scale, or raise the damping"
            )
        found.append(feature_changes(network, start, params, x))
    return found, float(eta)


@partial(jax.jit, static_argnums=0)
def _step(network: Network, params, x, y, approximation: Approximation, step_size, damping):
    """Parameters after an update, and whether they are finite."""
    lin = linearize(network, params, x)
    residual = MSE.residual(lin.outputs, y)
    direction = approximation.natural_gradient(lin, residual, damping)
    new = jax.tree.map(lambda p, g: (p - step_size * g).astype(p.dtype), params, direction)
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(new)]
    return new, jnp.stack(finite).all()


def _distinct(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Check that there is at least one value and no two are equal; return them as a tuple."""
    if not values or len(set(values)) < len(values):
        raise InputError(
            f"{name} are {', '.join(map(str, values)) or 'none'}; give at least one, each once"
        )
    return tuple(values)
