"""The committed notebooks are whole, in order and clean; `make notebooks` runs them."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
#: Folders of a machine; not the `/home` of a web address.
ABSOLUTE = re.compile(r"(?<![\w/.:-])/(?:tmp|home|root|work|Users|mnt|opt|usr)(?:/|\b)")
LIMIT = 500_000


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_committed_clean(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(text) < LIMIT
    # All have run, from top to bottom, in one go.
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert "error" not in {output["output_type"] for output in outputs}
    assert "stderr" not in {output.get("name") for output in outputs}
    # Neither times nor versions nor machines.
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert set(notebook["metadata"]["language_info"]) == {"name"}
    assert not any(cell["metadata"] for cell in cells)
    pictures = re.compile(r'"image/png": "[^"]*"')
    assert not ABSOLUTE.search(pictures.sub("", text))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_opens_with_a_title_and_ends_with_exercises(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first, last = cells[0], cells[-1]
    assert first["cell_type"] == last["cell_type"] == "markdown"
    assert re.match(r"# \S", "".join(first["source"]))
    headings = re.findall(r"^#+ (.*)$", "".join(last["source"]), re.MULTILINE)
    assert headings[-1] == "Exercises"
    exercises = re.findall(r"^\d\. ", "".join(last["source"]).split("Exercises")[-1], re.MULTILINE)
    assert 3 <= len(exercises) <= 5


def test_the_gallery_shows_what_the_notebooks_have():
    spec = importlib.util.spec_from_file_location("gallery", FOLDER.parent / "docs" / "gallery.py")
    assert spec is not None and spec.loader is not None
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    assert {name.rpartition("-")[0] for name in gallery.shown()} == {p.stem for p in NOTEBOOKS}
    for name in gallery.shown():
        assert (gallery.FOLDER / f"{name}.png").read_bytes() == gallery.figure(name), name
