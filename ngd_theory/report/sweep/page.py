"""One self-contained HTML page of a sweep: its values are gathered here, `page.html.j2` lays them out."""

import gzip
import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import jinja2
import tomli_w
from pydantic import BaseModel

from ngd_theory.references import cited
from ngd_theory.report.style import label
from ngd_theory.report.sweep.captions import Numbers, estimate_text
from ngd_theory.report.sweep.found import Found
from ngd_theory.sweeps import StudyVerdict

#: Most bytes of a table inside the page: plain, and compressed.
_PLAIN, _COMPRESSED = 1_000_000, 3_000_000
#: Escapes every text; a missing name is an error.
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("ngd_theory.report.sweep", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["data_uri"] = lambda content, kind: (
    f"data:{kind};base64,{b64encode(content).decode()}"
)


@dataclass(frozen=True)
class Shown:
    """A figure of the page.

    Attributes
    ----------
    name : str
        The files are ``figures/NAME.png`` and ``.pdf``.
    png : bytes
    size : (int, int)
        Pixels.
    caption : str
    numbers : tuple of Numbers
    """

    name: str
    png: bytes
    size: tuple[int, int]
    caption: str
    numbers: tuple[Numbers, ...] = ()


def render(
    found: Found, figures: list[Shown | str], whole: list[tuple[str, Shown]], csv: bytes
) -> str:
    """Return the HTML of the page.

    Parameters
    ----------
    found : Found
    figures : list
        For each claim its figure, or the reason why there is none. Empty if the claims have no figures.
    whole : list of (str, Shown)
        Heading and figure for the whole study.
    csv : bytes
        The tidy table, which is offered as a download.
    """
    claims = [
        (f"{i}. {claim.statement}", [_verdict(verdict) for verdict in verdicts])
        for i, (claim, verdicts) in enumerate(found.claims, start=1)
    ]
    sections = [
        (f"figure-{i}", f"numbers-{i}", heading, shown)
        for i, ((heading, _), shown) in enumerate(zip(claims, figures, strict=False), start=1)
    ]
    sections += [(shown.name, f"{shown.name}-numbers", heading, shown) for heading, shown in whole]
    return _TEMPLATES.get_template("page.html.j2").render(
        title=found.study.title,
        statement=found.study.statement,
        summary=_summary(found),
        missing=found.missing,
        total=found.total,
        failures=_failures(found),
        claims=claims,
        linked=bool(figures),
        sections=sections,
        rows=len(found.frame),
        download=_download(csv),
        toml=to_toml(found.study),
        references=[r.cited_as for r in cited(found.study.model_dump(mode="json"))],
        environment=_environment(found.runs),
        commits=list(dict.fromkeys(str(run.get("git_commit")) for run in found.runs)),
    )


def to_toml(study: BaseModel) -> str:
    """TOML that `ngd_theory.sweeps.read` reads as an equal study; defaults are left out."""
    return tomli_w.dumps(_without_none(study.model_dump(mode="json", exclude_defaults=True)))


def _without_none(value: Any) -> Any:
    """The value without None, which TOML does not have."""
    if isinstance(value, dict):
        return {name: _without_none(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_none(entry) for entry in value if entry is not None]
    return value


def _summary(found: Found) -> str:
    parts = [f"{found.finished} of {found.total} cells finished"]
    if found.failures:
        parts.append(f"{len(found.failures)} failed")
    parts += [f"{count} {outcome}" for outcome, count in found.outcomes.items()]
    if found.claims:
        unexpected = found.unexpected
        decided = sum(v.outcome.decided for _, verdicts in found.claims for v in verdicts)
        whole = "all that were decided as expected" if decided else "none was decided"
        parts.append(f"{unexpected} not as expected" if unexpected else whole)
    return ", ".join(parts) + "."


def _verdict(verdict: StudyVerdict) -> tuple[str, list[str], str]:
    """The outcome, the cells after it, and the reason."""
    estimate = verdict.estimate
    cells = [
        label(verdict.approximation),
        verdict.statistic,
        estimate_text(estimate),
        verdict.rule,
        "–" if estimate is None else str(estimate.num_seeds),
        _expected(verdict),
    ]
    return str(verdict.outcome), cells, verdict.why


def _expected(verdict: StudyVerdict) -> str:
    if not verdict.outcome.decided:
        return "not decided"
    return "yes" if verdict.as_expected else f"no, {verdict.expect} was"


def _download(csv: bytes) -> tuple[str, str, bytes] | None:
    """Name, kind and content of the table inside the page; None if it is too large for that."""
    if len(csv) <= _PLAIN:
        return "table.csv", "text/csv", csv
    packed = gzip.compress(csv, mtime=0)
    return ("table.csv.gz", "application/gzip", packed) if len(packed) <= _COMPRESSED else None


def _failures(found: Found) -> list[tuple[str, str, str, str]]:
    """Cell, settings, error and traceback of every failure."""
    varying = found.varying
    return [
        (
            failure["id"][:12],
            ", ".join(f"{name} = {found.settings(failure['config'])[name]}" for name in varying),
            failure["error"],
            failure["traceback"],
        )
        for failure in found.failures
    ]


def _environment(runs: tuple[dict[str, Any], ...]) -> list[tuple[str, str]]:
    """The entries, each with every value that it had in some run."""
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in _flat(run):
            values.setdefault(name, {})[value] = None
    times = values.pop("time", {})
    first = ("runs", f"{len(runs)}: {', '.join(times)}")
    return [first, *((name, ", ".join(kept)) for name, kept in values.items())]


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat = []
    for name, entry in value.items():
        if isinstance(entry, dict):
            flat += _flat(entry, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, entry if isinstance(entry, str) else json.dumps(entry)))
    return flat
