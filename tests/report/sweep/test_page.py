"""The page is whole by itself, escapes what it is given, and says what the sweep came to."""

import base64
import csv
import gzip
import io
import re
import tomllib

import made_up
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from ngd_theory import sweeps
from ngd_theory.report.sweep import page as pages
from ngd_theory.report.sweep import write_report
from ngd_theory.sweeps.kinds import parse


def content(uri, kind):
    head, data = uri.split(",", 1)
    assert head == f"data:{kind};base64"
    return base64.b64decode(data, validate=True)


def test_nothing_is_fetched(usual):
    _, page, _ = usual
    assert page.all("script") == page.all("link") == page.all("iframe") == page.all("base") == []
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "poster", "data", "background", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
        assert not re.match(r"(?i)\s*(https?:|//|javascript:)", attributes.get("href", ""))
    assert "@import" not in page.source and "url(" not in page.source
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy


def test_it_fits_a_phone_and_paper(usual):
    _, page, _ = usual
    assert any(m.get("name") == "viewport" for m in page.all("meta"))
    assert "@media print" in page.source
    boxes = [a for a in page.all("div") if a.get("class") == "scroll"]
    assert len(boxes) == len(page.all("table")) > 0


def test_every_figure_is_an_image_of_the_file_beside_the_page(usual):
    folder, page, _ = usual
    files = [path.read_bytes() for path in sorted((folder / "figures").glob("*.png"))]
    images = [content(image["src"], "image/png") for image in page.all("img")]
    assert len(images) == 4 and sorted(images) == sorted(files)
    for image in images:
        pixels = matplotlib.image.imread(io.BytesIO(image))
        assert pixels.shape[0] > 300 and pixels.shape[1] > 500 and pixels[..., :3].std() > 0.02
    assert all(image["alt"] for image in page.all("img"))


def test_links_lead_somewhere(usual):
    folder, page, _ = usual
    assert len(set(page.ids)) == len(page.ids)
    links = [a["href"] for a in page.all("a")]
    inside = {href[1:] for href in links if href.startswith("#")}
    assert {f"{word}-{i}" for word in ("figure", "numbers") for i in (1, 2, 3)} <= inside
    assert inside <= set(page.ids)
    beside = {href for href in links if not href.startswith(("#", "data:"))}
    assert "table.csv" in beside and len(beside) == 9
    assert all((folder / href).is_file() for href in beside)


def test_every_verdict_is_there_with_its_numbers(usual, make_study):
    folder, page, _ = usual
    verdicts = sweeps.evaluate(make_study(), sweeps.load(folder))
    assert [i for i in page.ids if i.startswith("verdict-")] == [
        f"verdict-{i}" for i in range(1, len(verdicts) + 1)
    ]
    rows = re.findall(r'<tr id="verdict-\d+">.*?</tr>', page.source)
    for row, verdict in zip(rows, verdicts, strict=True):
        cells = [made_up.Page(cell).text for cell in re.findall(r"<td.*?</td>", row)]
        assert cells[0] == str(verdict.outcome) == "PASS"
        assert cells[1] == {"exact": "exact", "kfac": "K-FAC"}[verdict.approximation]
        assert cells[2:5] == [verdict.statistic, str(verdict.estimate), verdict.rule]
        assert cells[5:] == ["3", "yes", verdict.why]
    for statement in ("falls", "isotropic", "contracts"):
        assert statement in page.text


def test_outcomes_that_are_not_passes_are_named(reported):
    gap = {"statement": "gap", "statistic": "exponent", "of": "gap", "approximations": ["exact"]}
    page = reported(
        claims=[
            {**gap, "rule": "<= -1"},
            {**gap, "rule": "<= -1", "expect": "FAIL"},
            {**gap, "rule": "<= -1", "outside_premise": True},
            {**gap, "rule": "in [-0.7, -0.4]", "expect": "FAIL"},
        ]
    )
    rows = re.findall(r'<tr id="verdict-\d+">.*?</tr>', page.source)
    cells = [re.findall(r"<td.*?</td>", row) for row in rows]
    found = [[made_up.Page(cell).text for cell in (row[0], row[6])] for row in cells]
    assert found[:3] == [
        ["FAIL", "no, PASS was"],
        ["FAIL", "yes"],
        ["NOT APPLICABLE", "not decided"],
    ]
    assert found[3][1] == "no, FAIL was"
    assert "2 not as expected" in page.prose
    # What does not apply has no rows to draw, and says so where the link leads.
    assert "No figure: no row" in page.prose and "numbers-3" in page.ids


def test_numbers_below_a_figure_are_those_measured(usual):
    _, page, _ = usual
    section = re.search(r'<div id="numbers-1">.*?</table>', page.source, re.S)
    assert section is not None
    # Seeds have the factors 1, 2, 3, whose geometric mean is 6^(1/3); width 64 has 1/8.
    assert f"{6 ** (1 / 3) / 8:.3g} [0.125, 0.375], n = 3" in section[0]
    assert f"{2 * 6 ** (1 / 3) / 8:.3g} [0.25, 0.75], n = 3" in section[0]


def test_what_the_user_wrote_is_shown_and_not_run(reported):
    hostile = made_up.HOSTILE

    def breaks(cell):
        if cell.settings.seed == 1:
            raise ArithmeticError(hostile)
        return [row | {"reason": hostile} for row in made_up.measure(cell)]

    claim = {"statement": hostile, "statistic": "max", "of": "gap", "rule": "<= 100"}
    page = reported(rows=breaks, title=hostile, statement=hostile, claims=[claim])
    assert page.all("script") == []
    assert page.title == hostile
    # Heading, lead, verdict, section, error; the study and the traceback show it in quotation marks.
    assert page.text.count(hostile) >= 5
    assert "<script" not in page.source
    assert page.all("img")[0]["alt"] == f"1. {hostile}"


def test_values_of_settings_are_escaped(reported, tmp_path_factory):
    dataset = str(tmp_path_factory.mktemp("data") / "<b>&1.npz")
    rows = np.random.default_rng(0).normal(size=(8, 6))
    np.savez(dataset, x=rows, y=np.arange(8) % 2)
    data = {"dataset": dataset, "num_train": 4, "num_test": 2}
    page = reported(data=data, **made_up.PLAIN)
    assert page.all("b") == [] and dataset in page.text


def test_the_study_on_the_page_is_the_study(usual, make_study):
    _, page, _ = usual
    (uri,) = (a["href"] for a in page.all("a") if a.get("download") == "study.toml")
    text = content(uri, "application/toml").decode()
    assert parse(tomllib.loads(text)) == make_study()
    assert text.strip() in page.text
    assert "ngd-theory run study.toml" in page.text


def test_the_table_is_beside_the_page_and_in_it(usual):
    folder, page, _ = usual
    with open(folder / "table.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    frame = sweeps.load(folder)
    assert list(read[0]) == list(frame.columns) and len(read) == len(frame) == 9 * 2 * 4
    for name in ("gap", "residual", "dispersion", "width"):
        assert [float(row[name]) for row in read] == list(frame[name])
    (uri,) = (a["href"] for a in page.all("a") if a.get("download") == "table.csv")
    assert content(uri, "text/csv") == (folder / "table.csv").read_bytes()


def test_a_large_table_is_compressed_and_a_huge_one_only_beside(make_study, monkeypatch, tmp_path):
    folder = tmp_path
    sweeps.run(make_study(**made_up.PLAIN), folder, measure=made_up.measure)
    write_report(folder)
    table = (folder / "table.csv").read_bytes()

    def links():
        write_report(folder)
        page = made_up.Page((folder / "report.html").read_text(encoding="utf-8"))
        assert any(a["href"] == "table.csv" for a in page.all("a"))
        return {a["download"]: a["href"] for a in page.all("a") if "download" in a}

    monkeypatch.setattr(pages, "_PLAIN", 100)
    assert gzip.decompress(content(links()["table.csv.gz"], "application/gzip")) == table
    monkeypatch.setattr(pages, "_COMPRESSED", 100)
    assert set(links()) == {"study.toml"}


def test_the_environment_of_every_run_is_there(make_study, tmp_path):
    study = make_study(**made_up.PLAIN)
    for _ in range(2):
        sweeps.run(study, tmp_path, measure=made_up.measure)
    write_report(tmp_path)
    prose = made_up.Page((tmp_path / "report.html").read_text(encoding="utf-8")).prose
    manifest = sweeps.manifest.read_manifest(tmp_path / "manifest.json")
    assert len(manifest["runs"]) == 2
    for run in manifest["runs"]:
        for value in (run["time"], run["device"], run["platform"], run["versions"]["jax"]):
            assert value in prose
        assert str(run["git_commit"]).replace("None", "null") in prose


def test_a_partly_finished_sweep_says_how_many_cells_are_missing(make_study, tmp_path):
    def interrupted(cell):
        if cell.settings.width == 64:
            raise KeyboardInterrupt
        return made_up.measure(cell)

    with pytest.raises(KeyboardInterrupt):
        sweeps.run(make_study(), tmp_path, measure=interrupted)
    write_report(tmp_path)
    page = made_up.Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "6 of 9 cells finished" in page.prose and "3 of 9 cells are missing" in page.prose
    assert len(page.all("img")) == 4


def test_a_whole_sweep_says_nothing_of_missing_cells(usual):
    _, page, _ = usual
    assert "9 of 9 cells finished" in page.prose and "missing" not in page.prose
    assert "all that were decided as expected" in page.prose and "failures" not in page.ids


def test_failed_cells_are_listed_with_their_errors(reported):
    def breaks(cell):
        if cell.settings.width == 32:
            raise ArithmeticError(f"layer 2 is singular at seed {cell.settings.seed}")
        return made_up.measure(cell)

    page = reported(rows=breaks)
    assert (
        "6 of 9 cells finished, 3 failed" in page.prose
        and "the sweep is not finished" not in page.prose
    )
    for seed in (0, 1, 2):
        assert f"ArithmeticError: layer 2 is singular at seed {seed}" in page.prose
        assert f"width = 32, seed = {seed}" in page.prose
    assert "failures" in page.ids and "Traceback" in page.text


def test_a_sweep_without_a_finished_cell_is_reported(reported):
    def breaks(cell):
        raise ArithmeticError("no")

    page = reported(rows=breaks)
    assert "0 of 9 cells finished, 9 failed, 6 INCONCLUSIVE, none was decided" in page.prose
    assert page.all("img") == [] and page.prose.count("No figure: no row") == 3


def test_a_study_without_claims_has_its_trajectories(reported):
    page = reported(claims=None)
    assert "The study makes no claims." in page.prose and len(page.all("img")) == 1


def test_a_study_without_claims_or_training_is_reported(reported):
    page = reported(**made_up.PLAIN)
    assert "The study makes no claims." in page.prose and page.all("img") == []


def numbers_of(page, count):
    section = re.search(rf'<div id="numbers-{count}">.*?</table>', page.source, re.S)
    assert section is not None
    return section[0]


def test_the_numbers_below_a_figure_end_in_those_of_the_verdicts(usual, make_study):
    """One number, also where the grid has several widths: the mean over seeds of what each one is judged by."""
    folder, page, _ = usual
    for i, claim in enumerate(make_study().claims, start=1):
        one = make_study().model_copy(update={"claims": (claim,)})
        last = numbers_of(page, i).split("together", 1)[1]
        for verdict in sweeps.evaluate(one, sweeps.load(folder)):
            assert str(verdict.estimate) in last


def test_the_mean_in_a_figure_is_the_verdicts_where_there_is_one_point(reported, make_study):
    """Seeds 1, 2, 3 times 1e-6/16: the mean is 2, which the verdict has, and not 6^(1/3)."""
    grid = {"width": [16], "num_test": [2], "depth": [2, 3], "seed": [0, 1, 2]}
    claim = {"statement": "s", "statistic": "max", "of": "dispersion", "rule": "<= 1e-3"}
    data = {"dataset": "gaussian", "num_train": 4, "input_dim": 6}
    text = numbers_of(reported(grid=grid, data=data, claims=[claim]), 1)
    assert f"{2e-6 / 16:.3g} [" in text and f"{6 ** (1 / 3) * 1e-6 / 16:.3g} [" not in text


def test_the_damping_that_was_used_is_in_the_table_and_in_words(reported, tmp_path):
    def squared(cell):
        rho = cell.settings.damping
        return [
            row | {"damping_used": rho**2 if row["approximation"] == "kfac" else rho}
            for row in made_up.measure(cell)
        ]

    page = reported(rows=squared)
    assert "K-FAC is given its square" in page.text
    table = pd.read_csv(tmp_path / "table.csv")
    used = set(zip(table["approximation"], table["damping_used"], strict=True))
    assert used == {("kfac", 1e-8**2), ("exact", 1e-8)}


def test_no_word_of_a_square_where_there_is_none(usual):
    assert "K-FAC is given its square" not in usual[1].text


def test_the_verdicts_fit_the_page_beside_each_other(usual):
    """Cells that may not break made the table wider than the page, which cut "why" at 1300 pixels."""
    _, page, _ = usual
    assert re.search(r'<h2 id="verdicts">Verdicts</h2>\s*<div class="scroll"', page.source)
    assert "#verdicts + .scroll td.number { white-space: normal; }" in page.source
