"""One self-contained HTML page of a sweep."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ngd_theory.report.style import label
from ngd_theory.report.sweep.found import Found
from ngd_theory.report.sweep.html import Html, data_uri, image, join, number_cell, row, table, tag
from ngd_theory.report.sweep.toml import to_toml
from ngd_theory.sweeps import Estimate, StudyVerdict

#: Bytes up to which the table is inside the page: plain, and compressed.
_PLAIN, _COMPRESSED = 1_000_000, 3_000_000
_HEADER = ("outcome", "approximation", "of", "estimate [95 %]", "rule", "seeds", "expected?", "why")
#: The browser is forbidden to fetch anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Shown:
    """A figure of the page.

    Attributes
    ----------
    name : str
        Of the files ``figures/NAME.png`` and ``.pdf``.
    png : bytes
    size : (int, int)
        Pixels.
    caption : str
    numbers : Html or None
    """

    name: str
    png: bytes
    size: tuple[int, int]
    caption: str
    numbers: Html | None = None


def render(
    found: Found, figures: list[Shown | str], whole: tuple[str, Shown] | None, csv: bytes
) -> str:
    """The page.

    Parameters
    ----------
    found : Found
    figures : list
        A claim's figure, or why there is none; in the order of the claims. Empty where the claims have none.
    whole : (str, Shown) or None
        Heading and figure of the whole study.
    csv : bytes
        The tidy table, which is offered as a download.
    """
    study = found.study
    body = [
        tag("h1", study.title),
        tag("p", study.statement, class_="lead"),
        tag("p", _summary(found), class_="soft"),
        *_gaps(found),
        tag("h2", "Verdicts", id="verdicts"),
        _verdicts(found, linked=bool(figures)),
    ]
    if figures or whole:
        body.append(tag("h2", "Figures", id="figures"))
    for i, ((claim, _), shown) in enumerate(zip(found.claims, figures, strict=False), start=1):
        body.append(_section(f"figure-{i}", f"numbers-{i}", f"{i}. {claim.statement}", shown))
    if whole:
        body.append(_section("trajectories", "trajectory-numbers", *whole))
    body += [
        tag("h2", "Table", id="table"),
        _download(csv, len(found.frame)),
        *_failures(found),
        tag("h2", "Study", id="study"),
        tag("pre", to_toml(study)),
        tag("h2", "Environment", id="environment"),
        _environment(found.runs),
        tag("h2", "Reproduce", id="reproduce"),
        *_reproduce(found),
    ]
    style = files("ngd_theory.report.sweep").joinpath("page.css").read_text(encoding="utf-8")
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", study.title),
            Html(f"<style>\n{style}</style>"),
        ]
    )
    page = tag("html", tag("head", head), tag("body", tag("main", join(body))), lang="en")
    return f"<!doctype html>\n{page.text}\n"


def estimate_text(estimate: Estimate | None) -> str:
    """Value and interval, or that there is no interval."""
    if estimate is None:
        return "–"
    if abs(estimate.low) == float("inf") or abs(estimate.high) == float("inf"):
        return f"{estimate.value:.4g} (no interval)"
    return str(estimate)


def _summary(found: Found) -> str:
    parts = [f"{found.finished} of {found.total} cells finished"]
    if found.failures:
        parts.append(f"{len(found.failures)} failed")
    parts += [f"{count} {outcome}" for outcome, count in found.outcomes.items()]
    if found.claims:
        unexpected = found.unexpected
        parts.append(f"{unexpected} not as expected" if unexpected else "all as expected")
    return ", ".join(parts) + "."


def _gaps(found: Found) -> Iterable[Html]:
    if found.missing:
        yield tag(
            "p",
            f"{found.missing} of {found.total} cells are missing: the sweep is not finished, and what "
            "follows is of the finished cells only.",
            class_="note",
        )
    if found.failures:
        link = tag("a", "their errors", href="#failures")
        yield tag("p", f"{len(found.failures)} cells failed: ", link, ".", class_="note")


def _verdicts(found: Found, linked: bool) -> Html:
    if not found.claims:
        return tag("p", "The study makes no claims.")
    rows, count = [], 0
    for i, (claim, verdicts) in enumerate(found.claims, start=1):
        rows.append(_claim(i, claim.statement, linked))
        for verdict in verdicts:
            count += 1
            rows.append(_verdict(verdict, f"verdict-{count}"))
    return table(_HEADER, rows)


def _claim(number: int, statement: str, linked: bool) -> Html:
    """The row above a claim's verdicts."""
    words = ("figure", "numbers") if linked else ()
    links = [tag("a", word, href=f"#{word}-{number}") for word in words]
    inside = join([f"{number}. {statement} ", *links], " ")
    return row(tag("th", inside, scope="rowgroup", colspan=str(len(_HEADER))))


def _verdict(verdict: StudyVerdict, id: str) -> Html:
    name = str(verdict.outcome).lower().replace(" ", "-")
    estimate = verdict.estimate
    return row(
        tag("span", str(verdict.outcome), class_=f"outcome {name}"),
        number_cell(label(verdict.approximation)),
        number_cell(verdict.statistic),
        number_cell(estimate_text(estimate)),
        number_cell(verdict.rule),
        "–" if estimate is None else str(estimate.num_seeds),
        number_cell("yes" if verdict.as_expected else f"no, {verdict.expect} was"),
        tag("td", verdict.why, class_="soft"),
        id=id,
    )


def _section(id: str, numbers_id: str, heading: str, shown: Shown | str) -> Html:
    title = tag("h3", heading)
    if isinstance(shown, str):
        inside: list[Html] = [tag("p", f"No figure: {shown}.", class_="note", id=numbers_id)]
        return tag("section", title, *inside, class_="claim", id=id)
    files_ = [
        tag("a", suffix.upper(), href=f"figures/{shown.name}.{suffix}") for suffix in ("png", "pdf")
    ]
    links = tag("span", " Beside this page: ", join(files_, ", "), ".", class_="screen")
    picture = tag(
        "figure",
        image(shown.png, heading, *shown.size),
        tag("figcaption", shown.caption, links),
    )
    parts = [title, picture]
    if shown.numbers is not None:
        parts.append(tag("div", shown.numbers, id=numbers_id))
    return tag("section", *parts, class_="claim", id=id)


def _download(csv: bytes, rows: int) -> Html:
    packed = gzip.compress(csv, mtime=0)
    beside = tag("a", "table.csv", href="table.csv")
    text = f"{rows} rows: "
    if len(csv) <= _PLAIN:
        inside = tag("a", "download", href=data_uri("text/csv", csv), download="table.csv")
    elif len(packed) <= _COMPRESSED:
        source = data_uri("application/gzip", packed)
        inside = tag("a", "download", href=source, download="table.csv.gz")
    else:
        return tag("p", text, beside, ", beside this page.")
    return tag("p", text, inside, "; the same as ", beside, " beside this page.")


def _failures(found: Found) -> Iterable[Html]:
    if not found.failures:
        return
    yield tag("h2", "Failed cells", id="failures")
    rows = [
        row(
            number_cell(str(failure["id"])[:12]),
            ", ".join(f"{n} = {failure['config']['settings'][n]}" for n in found.varying),
            join(
                [
                    str(failure["error"]),
                    tag("details", tag("summary", "traceback"), tag("pre", failure["traceback"])),
                ],
                "",
            ),
        )
        for failure in found.failures
    ]
    yield table(["cell", "settings", "error"], rows)


def _environment(runs: tuple[dict[str, Any], ...]) -> Html:
    """A row an entry, with every value that it had in some run."""
    values: dict[str, list[str]] = {}
    for run in runs:
        for name, value in _flat(run):
            kept = values.setdefault(name, [])
            if value not in kept:
                kept.append(value)
    times = values.pop("time", [])
    rows = [row(tag("th", "runs", scope="row"), f"{len(runs)}: {', '.join(times)}")]
    rows += [row(tag("th", name, scope="row"), ", ".join(kept)) for name, kept in values.items()]
    return table(["entry", "value"], rows)


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat = []
    for name, entry in value.items():
        if isinstance(entry, dict):
            flat += _flat(entry, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, entry if isinstance(entry, str) else json.dumps(entry)))
    return flat


def _reproduce(found: Found) -> Iterable[Html]:
    source = data_uri("application/toml", to_toml(found.study).encode())
    link = tag("a", "study.toml", href=source, download="study.toml")
    yield tag("p", "Save the study above as ", link, ", then:")
    commits = dict.fromkeys(str(run.get("git_commit")) for run in found.runs)
    lines = [f"# git commit: {', '.join(commits)}"]
    lines += ["ngd-theory run study.toml --out results", "ngd-theory report results"]
    yield tag("pre", "\n".join(lines))
