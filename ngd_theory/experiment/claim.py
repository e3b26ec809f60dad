"""A claim is asked, a verdict comes out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from ngd_theory.experiment.evidence import Evidence


class Outcome(StrEnum):
    """What a claim comes to."""

    PASS = "PASS"
    FAIL = "FAIL"
    #: The evidence decides nothing: some of it is missing, not a number, or too little.
    INCONCLUSIVE = "INCONCLUSIVE"
    #: The statement says nothing of this case.
    NOT_APPLICABLE = "NOT APPLICABLE"

    @property
    def decided(self) -> bool:
        """Whether something was shown."""
        return self in (Outcome.PASS, Outcome.FAIL)


class NotApplicableError(Exception):
    """Raised by a check whose premise does not hold in this experiment, with the reason."""


@dataclass(frozen=True)
class Verdict:
    """What a claim comes to for one approximation, on one experiment.

    Attributes
    ----------
    outcome : Outcome
    measured, predicted, tolerance : float or None
        None where the claim does not apply.
    why : str
        How the three were compared, or why they were not, in words.
    claim, approximation, statement, source : str
    """

    outcome: Outcome
    measured: float | None
    predicted: float | None
    tolerance: float | None
    why: str
    claim: str = ""
    approximation: str = ""
    statement: str = ""
    source: str = ""


def verdict(
    holds: bool | None, measured: float, predicted: float, tolerance: float, why: str
) -> Verdict:
    """The verdict of a check: ``holds`` is False for every comparison with NaN."""
    outcome = Outcome.PASS if holds else Outcome.FAIL
    return Verdict(outcome, float(measured), float(predicted), float(tolerance), why)


@dataclass(frozen=True)
class Claim:
    """A statement with its source and its check.

    Attributes
    ----------
    name, statement, source : str
    check : ``(evidence, all evidence by approximation) -> Verdict``
        Its docstring derives the tolerance. Raises `NotApplicableError` when the premise fails.
    concerns : ``evidence -> bool``
        Whether the statement speaks of this approximation at all.
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
            found = Verdict(Outcome.NOT_APPLICABLE, None, None, None, str(reason))
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
    """Every claim on every approximation it speaks of."""
    return tuple(
        c.judge(one, evidence) for c in CLAIMS for one in evidence.values() if c.concerns(one)
    )
