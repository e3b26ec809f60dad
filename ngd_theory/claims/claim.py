"""A claim: a statement of the theory that an experiment can contradict."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ngd_theory.claims.evidence import Evidence


class Status(StrEnum):
    """Outcome of a claim."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_APPLICABLE = "NOT APPLICABLE"


@dataclass(frozen=True)
class Finding:
    """What a claim's check measured.

    Attributes
    ----------
    holds : bool
    measured, predicted, tolerance : float
    why : str
        How the three were compared, in words.
    """

    holds: bool
    measured: float
    predicted: float
    tolerance: float
    why: str


class NotApplicableError(Exception):
    """Raised by a check whose premise does not hold in this experiment, with the reason."""


@dataclass(frozen=True)
class Verdict:
    """A claim's outcome for one approximation.

    Attributes
    ----------
    claim, approximation, statement, source : str
    status : Status
    measured, predicted, tolerance : float or None
        None where the claim does not apply.
    why : str
    """

    claim: str
    approximation: str
    statement: str
    source: str
    status: Status
    measured: float | None
    predicted: float | None
    tolerance: float | None
    why: str


@dataclass(frozen=True)
class Claim:
    """A statement with its source and its check.

    Attributes
    ----------
    name, statement, source : str
    check : ``(evidence, all evidence by approximation) -> Finding``
        Its docstring derives the tolerance. Raises `NotApplicableError` when the premise fails.
    concerns : ``evidence -> bool``
        Whether the statement speaks of this approximation at all.
    """

    name: str
    statement: str
    source: str
    check: Callable[[Evidence, Mapping[str, Evidence]], Finding]
    concerns: Callable[[Evidence], bool]

    def judge(self, evidence: Evidence, others: Mapping[str, Evidence]) -> Verdict:
        """Check the claim on one approximation's evidence."""
        label = (self.name, evidence.name, self.statement, self.source)
        try:
            finding = self.check(evidence, others)
        except NotApplicableError as reason:
            return Verdict(*label, Status.NOT_APPLICABLE, None, None, None, str(reason))
        status = Status.PASS if finding.holds else Status.FAIL
        return Verdict(
            *label, status, finding.measured, finding.predicted, finding.tolerance, finding.why
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
    """Every claim on every approximation it speaks of."""
    return tuple(
        c.judge(one, evidence) for c in CLAIMS for one in evidence.values() if c.concerns(one)
    )
