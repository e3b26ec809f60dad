"""K-FAC with the identity in place of one factor (docs/theory.md section 9)."""

from dataclasses import dataclass, field, replace

import numpy as np

from ngd_theory.fisher.base import Look, approximation
from ngd_theory.fisher.kinds import Kind, TrueFisher, curvature_sensitivities
from ngd_theory.fisher.premises import input_rank, width
from ngd_theory.fisher.solve import as_rows, smallest_gram_eigenvalue
from ngd_theory.fisher.whitened import SummedApproximation, sums_over_outputs, whiten

_ELSEWHERE = "the theory has no constant of it from sizes alone, so name it to run it"


@approximation
@dataclass(frozen=True)
class KFACInput(SummedApproximation):
    """``G_l = A_l (x) I`` with ``A = (1/N) sum_{n,t} a a^T``: FOOF (Benzing 2022), K-FAC without its output factor.

    The damping is added to G itself, ``(A + rho) (x) I``. At rho = 0 and full rank K_l has one block
    ``delta_n delta_n^T`` per sample. With growing width ``alpha_l = mean |delta_nc|^2`` becomes
    ``prod_k sigma_w^2 Qdot_k`` (1 for ReLU at sigma_w^2 = 2, so alpha = L). The dispersion is of order M^(-1/2) if Qdot
    is the same for all samples. The constant does not follow from the sizes: it depends on the weights' scale.
    """

    name = "kfac-input"
    look = Look("#8C564B", "<", "K-FAC, inputs only (FOOF)")
    named_only = _ELSEWHERE
    needs_layers = True
    requirements = ("distinct-inputs", "general-position", "equal-leverages")

    def whitened(self, lin, damping, weights):
        """Inputs whitened, sensitivities as they are."""
        return tuple(
            replace(
                y,
                inputs=whiten(y.inputs, damping, 1 / lin.num_samples),
                sensitivities=sums_over_outputs(y.sensitivities, weights),
            )
            for y in lin.layers
        )

    def workspace(self, sizes, num_samples, itemsize):
        """Whitened copies of the inputs, and the largest matrix that is factorised."""
        sides = [min(num_samples * s.positions, s.num_inputs) for s in sizes]
        copies = sum(num_samples * s.positions * s.num_inputs for s in sizes)
        return copies + 2 * max(side**2 for side in sides)

    def damping_bias(self, lin, damping):
        """``rho / lambda_min(A)``, the largest over all layers."""
        found = [
            damping / smallest_gram_eigenvalue(as_rows(y.inputs), 1 / lin.num_samples)
            for y in lin.layers
        ]
        return float(np.max(found))

    def broken_premises(self, sizes, num_samples, equal_leverages=False):
        """Premise for layer 1, unless the leverages are equal."""
        if equal_leverages or any(s.positions > 1 for s in sizes):
            return {}
        return input_rank(self.name, sizes, num_samples, ", or forster = true without biases")


@approximation
@dataclass(frozen=True)
class KFACOutput(SummedApproximation):
    """``G_l = I (x) B_l`` with ``B = (1/(N T)) sum_{n,c,t} delta delta^T``: K-FAC without its input factor.

    The damping is added to G itself, ``I (x) (B + rho)``. At rho = 0 and full rank ``K_l = diag(|a_n|^2) (x) I`` in the
    hidden layers. Layer 1 is isotropic if all inputs have the same norm; later layers become so as M^(-1/2). In the
    output layer K is the kernel of its inputs over N: it never becomes isotropic; its share of alpha is about 1/N.

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
        Which Fisher B is of.
    """

    name = "kfac-output"
    look = Look("#E377C2", "d", "K-FAC, outputs only")
    named_only = _ELSEWHERE
    needs_layers = True
    requirements = ("distinct-inputs", "full-rank-sensitivities")
    kind: Kind = field(default=TrueFisher())

    def whitened(self, lin, damping, weights):
        """Sensitivities whitened, inputs as they are."""
        root, n = self.kind.root(lin.outputs), lin.num_samples
        made = []
        for y in lin.layers:
            rows = None if root is None else as_rows(curvature_sensitivities(y.sensitivities, root))
            scale = 1 / (n * y.inputs.shape[1])
            made.append(
                replace(y, sensitivities=whiten(y.sensitivities, damping, scale, rows, weights))
            )
        return tuple(made)

    def workspace(self, sizes, num_samples, itemsize):
        """Whitened sums over outputs, and the largest matrix that is factorised."""
        rows = num_samples * sizes[-1].output_dim
        sides = [min(rows * s.positions, s.num_units) for s in sizes]
        copies = sum(num_samples * s.positions * s.num_units for s in sizes)
        return copies + 2 * max(side**2 for side in sides)

    def damping_bias(self, lin, damping):
        """``rho / lambda_min(B)``, the largest over all layers."""
        root = self.kind.root(lin.outputs)
        found = [
            damping
            / smallest_gram_eigenvalue(
                as_rows(curvature_sensitivities(y.sensitivities, root)),
                1 / (lin.num_samples * y.inputs.shape[1]),
            )
            for y in lin.layers
        ]
        return float(np.max(found))

    def broken_premises(self, sizes, num_samples, equal_leverages=False):
        """Premise for hidden layers of full rank NC."""
        if any(s.positions > 1 for s in sizes):
            return {}
        return width(self.name, sizes, num_samples * sizes[-1].output_dim)
