"""Claims, and the verdicts they give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from ngd_theory.experiment.evidence import Evidence


class Outcome(StrEnum):
    """Result of judging a claim."""

    PASS = "PASS"
    FAIL = "FAIL"
    #: The evidence decides nothing: some of it is missing, not a number, or too little.
    INCONCLUSIVE = "INCONCLUSIVE"
    #: The statement says nothing about this case.
    NOT_APPLICABLE = "NOT APPLICABLE"

    @property
    def decided(self) -> bool:
        """Whether the claim was shown to hold or to fail."""
        return self in (Outcome.PASS, Outcome.FAIL)


#: Largest power of a PASS. A claim shows nothing if it would also pass with a relative error of this size.
WEAKEST = 0.1


class NotApplicableError(Exception):
    """Raised by a check whose premise does not hold in this experiment, with the reason."""


class UndecidedError(Exception):
    """Raised by a check whose evidence is missing or decides nothing, with the reason."""


@dataclass(frozen=True)
class Verdict:
    """Result of a claim for one approximation in one experiment.

    Attributes
    ----------
    outcome : Outcome
    measured, predicted, tolerance : float or None
        None where the claim does not apply.
    power : float or None
        Smallest relative error of the prediction that would have failed the claim.
    why : str
        How the numbers were compared, or why they were not.
    claim, approximation, statement, source : str
    """

    outcome: Outcome
    measured: float | None
    predicted: float | None
    tolerance: float | None
    power: float | None
    why: str
    claim: str = ""
    approximation: str = ""
    statement: str = ""
    source: str = ""

    @property
    def excess(self) -> float:
        """Error in units of the tolerance, infinite for NaN or a tolerance of 0; 0 if there is nothing to compare."""
        if self.measured is None or self.predicted is None or self.tolerance is None:
            return 0.0
        off = abs(self.measured - self.predicted)
        if not off < np.inf:
            return np.inf
        if off == 0:
            return 0.0
        return off / self.tolerance if self.tolerance > 0 else np.inf


def verdict(
    holds: bool, measured: float, predicted: float, tolerance: float, power: float, why: str
) -> Verdict:
    """Verdict of a check; ``holds`` must be False for a comparison with NaN.

    A claim that holds with a power above `WEAKEST` shows nothing: it is INCONCLUSIVE.
    """
    outcome = Outcome.PASS if holds else Outcome.FAIL
    if holds and not power <= WEAKEST:
        outcome = Outcome.INCONCLUSIVE
        why = f"cannot tell: an error of {power:.2g} of what is predicted would pass; {why}"
    numbers = float(measured), float(predicted), float(tolerance), float(power)
    return Verdict(outcome, *numbers, why)


@dataclass(frozen=True)
class Claim:
    """A statement with its source and its check.

    Attributes
    ----------
    name, statement, source : str
    check : ``(evidence, all evidence by approximation) -> Verdict``
        Its docstring derives the tolerance. Raises `NotApplicableError` when the premise fails.
    concerns : ``evidence -> bool``
        Whether the statement is about this approximation.
    """

    name: str
    statement: str
    source: str
    check: Callable[[Evidence, Mapping[str, Evidence]], Verdict]
    concerns: Callable[[Evidence], bool]

    def judge(self, evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
        """Check the claim on one approximation's evidence."""
        try:
            found = self.check(evidence, others)
        except NotApplicableError as reason:
            found = Verdict(Outcome.NOT_APPLICABLE, None, None, None, None, str(reason))
        except UndecidedError as reason:
            found = Verdict(Outcome.INCONCLUSIVE, None, None, None, None, str(reason))
        return replace(
            found,
            claim=self.name,
            approximation=evidence.name,
            statement=self.statement,
            source=self.source,
        )


#: All claims, in the order of the report; `claim` appends to it.
CLAIMS: list[Claim] = []


def claim(name: str, statement: str, source: str, concerns: Callable[[Evidence], bool]):
    """Decorator: register a check function as a `Claim`."""

    def register(check):
        CLAIMS.append(Claim(name, statement, source, check, concerns))
        return check

    return register


def judge(evidence: Mapping[str, Evidence]) -> tuple[Verdict, ...]:
    """Judge every claim for every approximation that it is about."""
    return tuple(
        c.judge(one, evidence) for c in CLAIMS for one in evidence.values() if c.concerns(one)
    )
