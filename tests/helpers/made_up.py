"""A study with made-up numbers, and a reader of pages that knows nothing of their writer."""

from html.parser import HTMLParser

#: Exponent of the made-up gap.
EXPONENT = -0.5
HOSTILE = """<script>alert("1")</script> & 'quotes' $x_{$ #1"""


def study_values(**changes):
    values = {
        "title": "tiny",
        "statement": "nothing much",
        "approximations": ["exact", "kfac"],
        "measure": ["isotropy", "trajectory", "gap"],
        "steps": 3,
        "step_scales": 0.5,
        "data": {"dataset": "gaussian", "num_train": 4, "num_test": 2, "input_dim": 6},
        "grid": {"width": [16, 32, 64], "seed": [0, 1, 2]},
        "claims": [
            {"statement": "falls", "statistic": "exponent", "of": "gap", "rule": "<= -0.4"},
            {"statement": "isotropic", "statistic": "max", "of": "dispersion", "rule": "<= 1e-3"},
            {"statement": "contracts", "statistic": "rate-error", "rule": "<= 0.1"},
        ],
    }
    values.update(changes)
    return {key: value for key, value in values.items() if value is not None}


#: Changes that leave nothing to draw.
PLAIN = {"claims": None, "measure": ["gap"]}


def gap(settings, name):
    """A power law with a factor a seed, K-FAC's twice as large."""
    return (1 + settings.seed) * (2 if name == "kfac" else 1) * settings.width**EXPONENT


def dispersion(settings):
    return 1e-6 * (1 + settings.seed) / settings.width


def measure(cell):
    """Rows from the settings alone."""
    s = cell.settings
    rate = abs(1 - s.step_scale)
    return [
        {
            "approximation": name,
            "applicable": True,
            "reason": "",
            "step": t,
            "damping_used": s.damping,
            "step_size": s.step_scale,
            "dispersion": dispersion(s),
            "gap": gap(s, name) * t / s.steps,
            "residual": (rate + 0.01) ** t,
            "predicted_residual": rate**t,
            "train_loss": (rate + 0.01) ** (2 * t),
            "predicted_train_loss": rate ** (2 * t),
            "test_loss": 0.5 + rate**t,
            "predicted_test_loss": 0.5 + rate**t,
            "diverged": False,
        }
        for name in s.chosen_approximations
        for t in range(s.steps + 1)
    ]


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    VOID = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text, self.title = [], [], "", ""
        self.source = text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] == "title":
            self.title += data

    def close(self):
        super().close()
        assert not self.open, f"left open: {self.open}"

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    @property
    def prose(self):
        """The text with single spaces."""
        return " ".join(self.text.split())
