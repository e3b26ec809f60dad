"""The sizes and ranks of an affine layer that the theory's constants depend on."""

from dataclasses import dataclass

from scipy.special import bdtrc

from ngd_theory.errors import NotPredictedError
from ngd_theory.networks.geometry import Geometry
from ngd_theory.networks.layout import Layout


@dataclass(frozen=True)
class LayerSize:
    """What the theory needs to know of an affine layer before any number is drawn.

    Attributes
    ----------
    positions : int
        T, the positions that share the weights (1 for a dense layer).
    num_inputs : int
        P, the width of the bias-augmented inputs.
    num_units : int
        M, the output units or channels.
    active_fraction : float
        gamma = P(delta != 0) of the layer's units; 1 for the output layer.
    output_dim : int
        C, the outputs of the whole network.
    geometry : Geometry
        Which positions and inputs count.
    linear_input_rank : int or None
        A bound on rank(a) if no nonlinearity stands before the layer, else None.
    linear_sensitivity_rank : int or None
        If no nonlinearity stands after the layer, delta is the same for every sample; then a bound on the number of
        outputs that delta tells apart. Else None.
    linear_image_rank : int or None
        If the whole network is linear: the number of dimensions before the layer (plus one for biases) that J_l is
        linear in. Else None.
    unknown : str or None
        If set, why the theory knows no ranks of this network. Methods then raise `NotPredictedError`, and ``geometry``
        is that of a layer without maps.
    """

    positions: int
    num_inputs: int
    num_units: int
    active_fraction: float
    output_dim: int
    geometry: Geometry
    linear_input_rank: int | None = None
    linear_sensitivity_rank: int | None = None
    linear_image_rank: int | None = None
    unknown: str | None = None

    @property
    def known_geometry(self) -> Geometry:
        """``geometry``; raises `NotPredictedError` if it is not known."""
        if self.unknown is not None:
            raise NotPredictedError(self.unknown)
        return self.geometry

    @property
    def live_units(self) -> int:
        """Units that the outputs depend on."""
        return self.known_geometry.live_units

    def input_rank(self, num_samples: int) -> int:
        """Rank of the (N*T, P) matrix of layer inputs, in general position."""
        seen = self.known_geometry
        rank = min(num_samples * seen.distinct_positions, seen.distinct_inputs)
        return rank if self.linear_input_rank is None else min(rank, self.linear_input_rank)

    def sensitivity_rank(self, num_samples: int, output_dim: int) -> int:
        """Rank of the (N*C*T, M) matrix of sensitivities, in general position."""
        shared = self.linear_sensitivity_rank
        if shared is None:
            rows = num_samples * output_dim * self.known_geometry.live_positions
        else:
            rows = min(output_dim, shared) * self.known_geometry.windows
        return min(rows, self.live_units)

    def unit_rank(self, output_dim: int) -> float:
        """Mean rank of one live unit's (C, T) sensitivities at one sample.

        It is the mean of ``min(C, R)``, where R is the number of windows with an active position, and each position is
        active independently with probability gamma. Neighbouring positions are not independent, but if there are many
        positions, R is hardly ever below C.
        """
        live, windows = self.known_geometry.live_positions, self.known_geometry.windows
        active = 1 - (1 - self.active_fraction) ** (live / windows)
        return float(sum(bdtrc(r, windows, active) for r in range(min(output_dim, windows))))

    def jacobian_rank(self, num_samples: int, output_dim: int) -> int:
        """Rank of the layer's (N*C, P*M) Jacobian: its rows lie in span(delta) (x) span(a)."""
        factors = self.input_rank(num_samples) * self.sensitivity_rank(num_samples, output_dim)
        image = num_samples if self.linear_image_rank is None else self.linear_image_rank
        return min(min(num_samples, image) * output_dim, factors)


def plain_size(layout: Layout, positions: int, output_dim: int, unknown: str) -> LayerSize:
    """Sizes of a layer if only its shapes and ``positions`` are known."""
    inputs, units = layout.num_inputs, layout.num_units
    geometry = Geometry(positions, units, positions, positions, inputs, inputs)
    return LayerSize(positions, inputs, units, 1.0, output_dim, geometry, unknown=unknown)


def plain_sizes(layers, output_dim: int, unknown: str) -> tuple[LayerSize, ...]:
    """`plain_size` of the layers of a linearisation."""
    return tuple(plain_size(y.layout, y.inputs.shape[1], output_dim, unknown) for y in layers)
