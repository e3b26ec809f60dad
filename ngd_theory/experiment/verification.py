"""A whole verification: it measures every approximation, judges every claim and plants errors if asked."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ngd_theory import data, networks
from ngd_theory.arguments import checked
from ngd_theory.experiment.building import load_data
from ngd_theory.experiment.claim import Outcome, Verdict, judge
from ngd_theory.experiment.evidence import Evidence
from ngd_theory.experiment.experiment import Experiment
from ngd_theory.experiment.pipeline import VERIFIED, measure
from ngd_theory.experiment.planted import Noticed, chosen, judge_planted
from ngd_theory.experiment.settings import Settings


@dataclass(frozen=True)
class Report:
    """Everything one verification run found.

    Attributes
    ----------
    settings : Settings
    dataset : ngd_theory.data.Dataset
    network : Network
    evidence : dict of str to Evidence
    verdicts : tuple of Verdict
    seconds : float
    noticed : tuple of Noticed
        Results of the planted errors.
    """

    settings: Settings
    dataset: data.Dataset
    network: networks.Network
    evidence: dict[str, Evidence]
    verdicts: tuple[Verdict, ...]
    seconds: float
    noticed: tuple[Noticed, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether at least one claim passed and none failed."""
        outcomes = {v.outcome for v in self.verdicts}
        return Outcome.PASS in outcomes and Outcome.FAIL not in outcomes


@checked
def verify(
    settings: Settings,
    progress: Callable[[str], None] | None = None,
    plant: Iterable[str] = (),
) -> Report:
    """Check the theory on one network and data set.

    Runs in whatever precision JAX is set to; `settings.precision` is applied by the command line.

    Parameters
    ----------
    settings : Settings
    progress : callable, optional
        Called with a message before each stage.
    plant : iterable of str
        Names in `PLANTED`, or "all": judge the claims once more with each of these errors, and report what noticed.

    Raises
    ------
    InputError
        For data or settings that cannot be run, and for a planted error that is not known.
    SingularKernelError
        When a solve breaks down: it says which layer and what to change.
    """
    tell = progress or (lambda message: None)
    start = time.perf_counter()
    errors = chosen(plant)
    tell(f"reading {settings.dataset}")
    experiment = Experiment.begin(settings, load_data(settings), tell=tell)
    parts = (*VERIFIED, "limit") if settings.kernel == "infinite" else VERIFIED
    evidence = {}
    for name in settings.chosen_approximations:
        tell(name)
        evidence[name] = measure(experiment, name, parts)
    tell("judging the claims")
    verdicts = judge(evidence)
    if errors:
        tell("planting errors")
    noticed = judge_planted(experiment, evidence, verdicts, errors)
    found = (settings, experiment.dataset, experiment.network, evidence, verdicts)
    return Report(*found, time.perf_counter() - start, noticed)
