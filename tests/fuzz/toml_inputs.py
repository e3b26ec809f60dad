"""Study files that are wrong."""

import tomllib
from functools import partial
from pathlib import Path

from bad_inputs import TOML, Bad

#: A study that can be read.
GOOD = """\
title = "t"
statement = "s"
approximations = ["exact"]
steps = 2
measure = ["isotropy"]
[network]
activation = "tanh"
[data]
dataset = "gaussian"
num_train = 4
num_test = 0
input_dim = 8
[grid]
width = [16, 32, 64]
seed = [0, 1]
[[claims]]
statement = "c"
statistic = "max"
of = "dispersion"
rule = "<= 1e-4"
"""
TRAINING = """\
kind = "training"
title = "t"
statement = "s"
problem = "curves"
seeds = [0, 1, 2]
[[optimizers]]
label = "a"
optimizer = "kfac"
batch = 10
steps = 3
[[claims]]
statement = "c"
statistic = "error"
labels = ["a"]
rule = "<= 1"
"""
STRUCTURE = """\
kind = "structure"
title = "t"
statement = "s"
num_images = 10
seeds = [0]
"""
LAYERS = """\
title = "t"
statement = "s"
approximations = ["kfac"]
measure = ["isotropy", "layers"]
[network]
architecture = "cnn"
depth = 3
[data]
dataset = "gaussian"
num_train = 2
num_test = 0
image_size = 4
[grid]
width = [2, 4]
seed = [0]
"""

#: What is wrong -> text in `GOOD`, and what stands in its place.
CHANGES = {
    "no title": ('title = "t"', ""),
    "an empty title": ('title = "t"', 'title = ""'),
    "a title of two lines": ('title = "t"', 'title = "t\\nu"'),
    "a number as title": ('title = "t"', "title = 3"),
    "no statement": ('statement = "s"\n', ""),
    "no approximations": ('approximations = ["exact"]\n', ""),
    "an empty list of approximations": ('["exact"]', "[]"),
    "approximations as a text": ('["exact"]', '"exact"'),
    "an unknown approximation": ('["exact"]', '["exakt"]'),
    "an approximation twice": ('["exact"]', '["exact", "exact"]'),
    "a number among approximations": ('["exact"]', '["exact", 3]'),
    "nested approximations": ('["exact"]', '[["exact"]]'),
    "no steps": ("steps = 2", "steps = 0"),
    "negative steps": ("steps = 2", "steps = -1"),
    "steps as a text": ("steps = 2", 'steps = "2"'),
    "steps as a fraction": ("steps = 2", "steps = 2.5"),
    "steps as a truth value": ("steps = 2", "steps = true"),
    "steps as a date": ("steps = 2", "steps = 2026-01-01"),
    "steps as a list": ("steps = 2", "steps = [2]"),
    "a key that is misspelt": ("steps = 2", "stepps = 2"),
    "no measurement": ('measure = ["isotropy"]', "measure = []"),
    "an unknown measurement": ('["isotropy"]', '["isotropie"]'),
    "rivals without a rival": ('["isotropy"]', '["isotropy", "rivals"]'),
    "the limit under cross-entropy": (
        *('measure = ["isotropy"]', 'measure = ["isotropy", "limit"]\nloss = "cross-entropy"'),
    ),
    "an unknown loss": ("steps = 2", 'steps = 2\nloss = "l1"'),
    "an unknown precision": ("steps = 2", 'steps = 2\nprecision = "float16"'),
    "a damping of NaN": ("steps = 2", "steps = 2\ndamping = nan"),
    "a damping of infinity": ("steps = 2", "steps = 2\ndamping = [1e-8, inf]"),
    "a negative damping": ("steps = 2", "steps = 2\ndamping = -1.0"),
    "no damping": ("steps = 2", "steps = 2\ndamping = []"),
    "damping as a text": ("steps = 2", 'steps = 2\ndamping = "1e-8"'),
    "damping as a table": ("steps = 2", "steps = 2\ndamping = { a = 1 }"),
    "a step scale of 0": ("steps = 2", "steps = 2\nstep_scales = 0.0"),
    "nested step scales": ("steps = 2", "steps = 2\nstep_scales = [[0.5]]"),
    "a step scale twice": ("steps = 2", "steps = 2\nstep_scales = [0.5, 0.5]"),
    "an unknown premise": ("steps = 2", 'steps = 2\nallow = ["depth"]'),
    "an unknown kind": ('title = "t"', 'title = "t"\nkind = "theorie"'),
    "a kind that is a list": ('title = "t"', 'title = "t"\nkind = ["theory"]'),
    "an unknown activation": ('"tanh"', '"swish"'),
    "a list as activation": ('"tanh"', '["tanh"]'),
    "an unknown key of the network": ("[network]", "[network]\nwidths = 3"),
    "a network that is a number": ('[network]\nactivation = "tanh"', "network = 3"),
    "a key of the data in the network": ("[network]", "[network]\nnum_train = 3"),
    "no data": ('dataset = "gaussian"\n', ""),
    "an unknown data set": ('"gaussian"', '"gauss"'),
    "data that are a number": ('"gaussian"', "3"),
    "no samples": ("num_train = 4", "num_train = 0"),
    "samples without end": ("num_train = 4", "num_train = 10000000000000000000000"),
    "half a sample": ("num_train = 4", "num_train = 4.5"),
    "no inputs": ("input_dim = 8", "input_dim = 0"),
    "a width of 0": ("[16, 32, 64]", "[0, 16, 32]"),
    "a width of NaN": ("[16, 32, 64]", "[16, nan, 32]"),
    "a width as a text": ("[16, 32, 64]", '[16, "32"]'),
    "no widths": ("[16, 32, 64]", "[]"),
    "widths that are lists": ("[16, 32, 64]", "[[16], [32]]"),
    "a width twice": ("[16, 32, 64]", "[16, 16, 32]"),
    "a width as a date": ("[16, 32, 64]", "[2026-01-01T00:00:00]"),
    "a negative seed": ("[0, 1]", "[0, -1]"),
    "a seed beyond 32 bits": ("[0, 1]", "[0, 4294967296]"),
    "seeds as truth values": ("[0, 1]", "[true, false]"),
    "an unknown key of the grid": ("[grid]", "[grid]\nheight = [1, 2]"),
    "a key in the grid and in the data": ("[grid]", "[grid]\nnum_train = [4, 8]"),
    "a precision that varies": ("[grid]", '[grid]\nprecision = ["float32", "float64"]'),
    "a million seeds": ("[0, 1]", str(list(range(1_000_000)))),
    "two million cells": (
        *(
            "seed = [0, 1]",
            f"seed = {list(range(2000))}\ndamping = {[i + 0.5 for i in range(350)]}",
        ),
    ),
    "a claim without a statement": ('statement = "c"\n', ""),
    "an unknown statistic": ('"max"', '"median"'),
    "an unknown column": ('"dispersion"', '"dispersal"'),
    "a column that is not measured": ('"dispersion"', '"gap"'),
    "no column": ('of = "dispersion"\n', ""),
    "a column for a rate": ('"max"', '"rate"'),
    "a rule without a number": ('"<= 1e-4"', '"<="'),
    "a rule of NaN": ('"<= 1e-4"', '"<= nan"'),
    "a rule of an empty interval": ('"<= 1e-4"', '"in [2, 1]"'),
    "a rule in words": ('"<= 1e-4"', '"small"'),
    "a rule that is a number": ('"<= 1e-4"', "1e-4"),
    "a strict rule": ('"<= 1e-4"', '"< 1e-4"'),
    "a claim about another approximation": ("rule =", 'approximations = ["kfac"]\nrule ='),
    "a claim where nothing is": ("rule =", "where = { width = 128 }\nrule ="),
    "a claim where a setting is unknown": ("rule =", "where = { height = 1 }\nrule ="),
    "a claim for each of nothing": ("rule =", 'each = ["height"]\nrule ='),
    "a claim expected to be maybe": ("rule =", 'expect = "MAYBE"\nrule ='),
    "an exponent over what does not vary": ('"max"', '"exponent"\nover = "depth"'),
    "claims that are a table": ("[[claims]]", "[claims]"),
    "an exponent over a word": ('"max"', '"exponent"\nover = "activation"'),
}
TRAINING_CHANGES = {
    "an unknown problem": ('"curves"', '"spirals"'),
    "no optimizers": (TRAINING[TRAINING.index("[[opt") : TRAINING.index("[[claims")], ""),
    "an unknown optimizer": ('"kfac"', '"kfak"'),
    "an unknown option": ("steps = 3", "steps = 3\noptions = { dampings = 1.0 }"),
    "a negative damping of K-FAC": ("steps = 3", "steps = 3\noptions = { damping = -1.0 }"),
    "an option as a text": ("steps = 3", 'steps = 3\noptions = { damping = "1" }'),
    "an option in both": (
        "steps = 3",
        "steps = 3\noptions = { damping = 1.0 }\ngrid = { damping = [1.0] }",
    ),
    "batches of nothing": ("batch = 10", "batch = 0"),
    "batches that shrink": ("batch = 10", "batch = [10, 5]"),
    "three batch sizes": ("batch = 10", "batch = [10, 20, 30]"),
    "steps of nothing": ("steps = 3", "steps = 0"),
    "too few seeds for a claim": ("[0, 1, 2]", "[0]"),
    "a seed twice": ("[0, 1, 2]", "[0, 1, 1]"),
    "no seeds": ("[0, 1, 2]", "[]"),
    "a negative seed of training": ("[0, 1, 2]", "[0, 1, -2]"),
    "a negative penalty": ('problem = "curves"', 'problem = "curves"\nl2 = -1.0'),
    "a penalty of NaN": ('problem = "curves"', 'problem = "curves"\nl2 = nan'),
    "an unknown label": ('labels = ["a"]', 'labels = ["b"]'),
    "no labels": ('labels = ["a"]', "labels = []"),
    "an error compared": ('labels = ["a"]', 'labels = ["a"]\nthan = "a"'),
    "steps compared with nothing": ('"error"', '"fewer-steps"'),
    "images of nothing": ('problem = "curves"', 'problem = "curves"\nnum_images = 0'),
    "a grid of nothing": ("steps = 3", "steps = 3\ngrid = { damping = [] }"),
}
STRUCTURE_CHANGES = {
    "no images": ("num_images = 10", "num_images = 0"),
    "a damping of 0": ("seeds = [0]", "seeds = [0]\nfactor_damping = [0.0]"),
    "until nothing is left": ("seeds = [0]", "seeds = [0]\nuntil = 0.0"),
    "in float32": ("seeds = [0]", 'seeds = [0]\nprecision = "float32"'),
    "a key of another kind": ("seeds = [0]", "seeds = [0]\nwidth = 3"),
    "a structure's seed twice": ("seeds = [0]", "seeds = [0, 0]"),
}
LAYERS_CHANGES = {
    "the old kind of layers": ('title = "t"', 'title = "t"\nkind = "layers"'),
    "no channels": ("[2, 4]", "[]"),
    "channels of 0": ("[2, 4]", "[0]"),
    "no image size": ("image_size = 4\n", ""),
    "a kernel larger than the image": (
        "depth = 3",
        'depth = 3\nkernel_size = 9\npadding = "valid"',
    ),
    "an unknown padding": ("depth = 3", 'depth = 3\npadding = "reflect"'),
    "an unknown readout": ("depth = 3", 'depth = 3\nreadout = "max"'),
    "an approximation of all layers": ('["kfac"]', '["exact"]'),
    "a pool larger than the image": ("depth = 3", "depth = 3\npool = 9"),
    "more convolutions than compile": ("depth = 3", "depth = 100000"),
    "a cnn without a convolution": ("depth = 3", "depth = 1"),
    "an unknown architecture": ('"cnn"', '"rnn"'),
    "sharing of another kind": ("depth = 3", 'depth = 3\nsharing = "some"'),
    "a sharing for an approximation without it": (
        'approximations = ["kfac"]\nmeasure = ["isotropy", "layers"]\n[network]\n',
        'approximations = ["entry-wise"]\nmeasure = ["isotropy"]\n[network]\nsharing = "reduce"\n',
    ),
    "a layer's seed twice": ("seed = [0]", "seed = [0, 0]"),
}
WHOLE = {
    "an empty file": b"",
    "white space": b" \n\t\n",
    "no TOML": b"title: t\n",
    "a bracket that is not closed": b"title = [1, 2",
    "a key twice": b'title = "a"\ntitle = "b"\n',
    "a text that is not closed": b'title = "a\n',
    "not UTF-8": b'title = "\xff\xfe"\n',
    "UTF-16": GOOD.encode("utf-16"),
    "a NUL character": GOOD.replace('"t"', '"\x00"').encode(),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "lists 10,000 deep": b"title = " + b"[" * 10_000 + b"]" * 10_000,
    "lists 500 deep": GOOD.replace("[0, 1]", "[" * 500 + "]" * 500).encode(),
    "tables 3,000 deep": b"[" + b".".join([b"a"] * 3000) + b"]\n",
    "JSON": b'{"title": "t"}',
    "binary": bytes(range(256)),
    "a number of a million digits": GOOD.replace("steps = 2", "steps = " + "9" * 10**6).encode(),
    "a huge file": b"#" * (64 * 2**20),
}
#: Not files.
PATHS = {
    "a missing study": "missing.toml",
    "a folder": ".",
    "a name too long": "x" * 300,
    "NUL": "a\0b",
}


def inputs(folder: Path) -> list[Bad]:
    """Every file, written; and what is no file."""
    from ngd_theory import sweeps

    sources = [
        (GOOD, CHANGES),
        (TRAINING, TRAINING_CHANGES),
        (STRUCTURE, STRUCTURE_CHANGES),
        (LAYERS, LAYERS_CHANGES),
    ]
    texts: dict[str, bytes] = {}
    bad = []
    for good, changes in sources:
        call = partial(sweeps.kinds.parse, values(good))
        bad.append(Bad(TOML, f"{next(iter(changes))}: sound", call, sound=True))
        for label, (old, new) in changes.items():
            assert old in good and label not in texts, label
            texts[label] = good.replace(old, new, 1).encode()
    for number, (label, content) in enumerate({**texts, **WHOLE}.items()):
        path = folder / f"study{number}.toml"
        path.write_bytes(content)
        bad.append(Bad(TOML, label, partial(sweeps.read, path), word=path.name))
    return bad + [Bad(TOML, label, partial(sweeps.read, name)) for label, name in PATHS.items()]


def values(text: str) -> dict:
    """What a file holds."""
    return tomllib.loads(text)
