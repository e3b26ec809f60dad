"""Spectra of measured maps and kernels, and the step sizes that follow."""

import jax.numpy as jnp
import numpy as np

from ngd_theory import losses, theory
from ngd_theory.errors import SingularKernelError
from ngd_theory.theory.isotropy import summarise


def judged_map(k, outputs, loss: str) -> tuple[theory.Isotropy, np.ndarray]:
    """Isotropy of the map that the theory's constant is about, and this map.

    Under MSE the map is K. Under another loss the Fisher of the outputs is ``Lambda = R R^T``, and the theory says that
    ``R^T K R`` is a multiple of the identity on the range of Lambda. Its mean eigenvalue there is
    ``tr(K Lambda) / rank Lambda``. (K itself grows as 1/rho outside this range, where no residual lies.)

    Parameters
    ----------
    k : (NC, NC) array
        The train map.
    outputs : (N, C) array
    loss : str

    Returns
    -------
    Isotropy
    (NC, NC) array
    """
    root = losses.by_name(loss).fisher_root(jnp.asarray(outputs))
    if root is None:
        return summarise(jnp.asarray(k)), np.asarray(k)
    roots = np.asarray(root)
    n, c, _ = roots.shape
    blocks = np.asarray(k).reshape(n, c, n, c)
    seen = np.einsum("nca,ncmd,mdb->namb", roots, blocks, roots, optimize=True)
    seen = seen.reshape(n * c, n * c)
    rank = int(sum(np.linalg.matrix_rank(block) for block in roots))
    if rank == 0:
        raise SingularKernelError(
            "the Fisher of the outputs is zero: the network is certain of every sample at its start; lower weight_std"
        )
    eigenvalues = np.linalg.eigvalsh((seen + seen.T) / 2)[-rank:]
    mean = eigenvalues.mean()
    summary = (mean, eigenvalues.std() / mean, eigenvalues[0], eigenvalues[-1])
    return theory.Isotropy(*map(jnp.asarray, summary)), seen


def largest_eigenvalue(k) -> float:
    """Largest eigenvalue of the symmetric part of a map."""
    return float(symmetric_spectrum(k)[-1])


def symmetric_spectrum(k) -> np.ndarray:
    """Eigenvalues of the symmetric part of a map, smallest first."""
    k = np.asarray(k)
    return np.linalg.eigvalsh((k + k.T) / 2)


def kernel_spectrum(kernel: np.ndarray) -> np.ndarray:
    """Eigenvalues of the NTK over N at the start, smallest first.

    Raises
    ------
    SingularKernelError
        If the network at its start is of no use: its kernel is zero or beyond the range of its floats.
    """
    mend = "change weight_std, the depth, the width or the seed"
    if not np.isfinite(kernel).all():
        raise SingularKernelError(
            f"the network's kernel at its start is beyond the range of {kernel.dtype}: {mend}, or scale the data"
        )
    spectrum = np.linalg.eigvalsh(kernel)
    # Below this its round-off is not a normal number.
    if not spectrum[-1] > np.finfo(kernel.dtype).tiny / np.finfo(kernel.dtype).eps:
        raise SingularKernelError(
            "the network's kernel at its start is zero, or as good as zero: no output depends on the parameters "
            f"(every unit is dead, or the weights are tiny); {mend}"
        )
    return spectrum


def checked_step_size(name: str, scale: float, rate: float) -> float:
    """``scale / rate``, which must be positive and finite.

    Raises
    ------
    SingularKernelError
        If the map reverses steps or moves nothing.
    """
    size = scale / rate if rate > 0 else np.nan
    if not 0 < size < np.inf:
        raise SingularKernelError(
            f"{name}: no step size follows from a step scale of {scale:g} over {rate:.3g}, the constant or largest "
            "eigenvalue of K: change the step scale, the damping or the network"
        )
    return size
