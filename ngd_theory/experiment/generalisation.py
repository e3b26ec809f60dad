"""Risk of the converged network over label noise and targets, for the statements of Amari et al. (2020).

The first half of the test inputs is unlabelled. With the training inputs it is the pool, whose Fisher estimates that of
the population. The other half is fresh. All results are of the linearised network (`ngd_theory.dynamics.risk`).
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ngd_theory import dynamics, fisher, networks
from ngd_theory.kernels import ntk
from ngd_theory.linalg import eigvalsh


@dataclass(frozen=True)
class Converged:
    """Parts of the risk at convergence, averaged over the outputs at some inputs.

    Attributes
    ----------
    variance : float
        Variance over label noise of standard deviation 1.
    aligned : float
        Bias over targets ``f_0 + J theta``, theta of covariance I.
    misaligned : float or None
        The same with theta of covariance ``(G_S + rho)^-1/abs(S)``, G_S the Fisher of the pool S; only at its inputs.
    fit : float
        Variance on the training inputs: 1 where the labels are fitted, noise and all.
    """

    variance: float
    aligned: float
    misaligned: float | None
    fit: float


@dataclass(frozen=True)
class Generalisation:
    """Converged risk of one approximation, and of gradient descent.

    Attributes
    ----------
    own : Converged
        With the Fisher of the training inputs, at the unlabelled inputs.
    population, fresh : Converged
        With the Fisher of the pool, at the unlabelled inputs and at fresh ones.
    descent, fresh_descent : Converged
        Of gradient descent, at the unlabelled inputs and at fresh ones.
    """

    own: Converged
    population: Converged
    fresh: Converged
    descent: Converged
    fresh_descent: Converged


@dataclass(frozen=True)
class Population:
    """The pool and fresh inputs, with everything that does not depend on the approximation.

    Attributes
    ----------
    labelled : range
        Places of the training inputs in the pool: they come first.
    pool, unlabelled, fresh : Linearization
    damping : float
    aligned, misaligned : array
        Covariances of targets over the training and the unlabelled outputs.
    fresh_aligned : array
        Over the training and the fresh outputs.
    descent, fresh_descent : Converged
    """

    labelled: range
    pool: networks.Linearization
    unlabelled: networks.Linearization
    fresh: networks.Linearization
    damping: float
    aligned: Array
    misaligned: Array
    fresh_aligned: Array
    descent: Converged
    fresh_descent: Converged

    @classmethod
    def of(cls, network, params, x, x_test, damping: float) -> "Population":
        """Linearise the network and make the covariances; there must be two test inputs or more."""
        half = (len(x_test) + 1) // 2

        def linearize(*inputs):
            return networks.linearize(network, params, jnp.concatenate(inputs))

        lin, pool = linearize(x), linearize(x, x_test[:half])
        unlabelled, fresh = linearize(x_test[:half]), linearize(x_test[half:])
        aligned, fresh_aligned = ntk(pool), ntk(linearize(x, x_test[half:]))
        misaligned = fisher.Exact().function_space_map(pool, damping)
        descent = fisher.Identity().prepare(lin, 0.0)
        k = descent.function_space_map()
        return cls(
            range(len(x)),
            *(pool, unlabelled, fresh, damping),
            *(aligned, misaligned, fresh_aligned),
            converged(k, descent.function_space_map(unlabelled), aligned, misaligned),
            converged(k, descent.function_space_map(fresh), fresh_aligned),
        )


def generalisation(population: Population, approximation, damping, k, q) -> Generalisation:
    """Converged risk; ``k`` and ``q`` (to all test inputs) are the maps with the Fisher of the training set."""
    p = population
    own = q[: p.unlabelled.outputs.size]
    how = approximation, p.pool, p.labelled, damping
    inside, seen = fisher.population_maps(*how, at=p.unlabelled)
    _, unseen = fisher.population_maps(*how, at=p.fresh)
    return Generalisation(
        converged(k, own, p.aligned, p.misaligned),
        converged(inside, seen, p.aligned, p.misaligned),
        converged(inside, unseen, p.fresh_aligned),
        p.descent,
        p.fresh_descent,
    )


def converged(k, q, aligned, misaligned=None) -> Converged:
    """Risk at infinite time, for maps on the training set and to other inputs. It does not depend on the step size."""
    how = 1.0, 1 / float(_largest(k)), [math.inf]
    found = dynamics.prior_risk(k, q, aligned, *how)
    parts = [found.test_variance, found.test_bias, found.variance]
    if misaligned is not None:
        parts.append(dynamics.prior_risk(k, q, misaligned, *how).test_bias)
    variance, bias, fit, *other = (float(np.asarray(part)[0]) for part in parts)
    return Converged(variance, bias, other[0] if other else None, fit)


@jax.jit
def _largest(k):
    return eigvalsh(k)[-1]
