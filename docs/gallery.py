"""A hook of MkDocs: the figures of the notebooks become files of the site, as ``figures/NOTEBOOK-NUMBER.png``."""

import json
from base64 import b64decode
from pathlib import Path

from mkdocs.structure.files import File

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def on_files(files, config):
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for number, png in enumerate(figures(path), start=1):
            name = f"figures/{path.stem}-{number}.png"
            files.append(File.generated(config, name, content=png))
    return files


def figures(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [b64decode(data["image/png"]) for data in outputs if "image/png" in data]
