"""``python docs/gallery.py``: write the figures of the notebooks that docs/gallery.md shows."""

import json
import re
from base64 import b64decode
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "figures" / "notebooks"


def shown() -> list[str]:
    """Names of the figures on the page, such as "03_width-1": the first of that notebook."""
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    return re.findall(r"\(figures/notebooks/(.*)\.png\)", page)


def figure(name: str) -> bytes:
    """A figure of a notebook as PNG."""
    notebook, _, number = name.rpartition("-")
    text = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8")
    outputs = [
        o.get("data", {}) for cell in json.loads(text)["cells"] for o in cell.get("outputs", [])
    ]
    found = [b64decode(data["image/png"]) for data in outputs if "image/png" in data]
    return found[int(number) - 1]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in shown():
        (FOLDER / f"{name}.png").write_bytes(figure(name))
