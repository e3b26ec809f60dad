"""Commands that are wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bad_inputs import COMMAND, Bad

#: A run that takes a second, were it not for what is added.
SMALL = (
    "verify --dataset gaussian --input-dim 8 --num-train 4 --num-test 2 --width 16 --steps 1 "
    "--approximations exact --out out"
).split()
#: Option of ``verify`` -> values that it cannot have.
VALUES: dict[str, Sequence[str]] = {
    "--width": ("0", "-1", "1.5", "nan", "inf", "1e3", "", "x", "10**3", "1_0x", "9" * 30),
    "--depth": ("0", "-3", "2.5", "nan", "", "100000"),
    "--num-train": ("0", "-1", "1.5", "inf", "", "9" * 25),
    "--num-test": ("-1", "0.5", "nan", ""),
    "--steps": ("0", "-1", "1.5", "", "9" * 25),
    "--input-dim": ("0", "-1", "1.5", "", "x"),
    "--output-dim": ("0", "-1", "1.5", ""),
    "--seed": ("-1", "1.5", "", "4294967296", "nan"),
    "--damping": ("-1", "-1e-300", "nan", "inf", "-inf", "", "1e101", "1e400", "rho"),
    "--step-scale": ("0", "-1", "nan", "inf", "", "1e400"),
    "--weight-std": ("0", "-1", "nan", "inf", "1e-400", "", "1,4"),
    "--bias-std": ("-1", "nan", "inf", ""),
    "--activation": ("", "swish", "ReLU", "relu ", "nan", "lambda x: x"),
    "--approximations": ("kfak", "exact;kfac", "exact,exact", "exact,kfak", "Ünit-wise"),
    "--loss": ("", "l1", "MSE", "cross_entropy"),
    "--precision": ("", "float16", "64", "bfloat16"),
    "--kernel": ("", "finite", "Infinite"),
    "--dataset": (
        *("", " ", "emnist", "MNIST", "openml:", "missing.npz", "folder.npz", "notes.txt"),
        *("..", "gaussian,mnist", "mnist\n", "x" * 600 + ".npz", "\u202e.npz"),
    ),
    "--classes": ("0,1", "x"),  # of Gaussian inputs
    "--memory-limit": ("", "0", "-1G", "2X", "nan", "1e9G", "lots", "1 byte", "1K"),
    "--out": ("", " ", "file", "file/below", "/proc/none", "/dev/null/x", "x" * 300),
    "--data-dir": ("", " "),
}
#: More of ``verify``: name -> what is added to `SMALL`.
MORE: dict[str, Sequence[str]] = {
    "an option twice as wide as known": ("--widths", "3"),
    "an option without its value": ("--width",),
    "an argument too many": ("16",),
    "a flag with a value": ("--forster=yes",),
    "a number too wide for memory": ("--width", "1000000000"),
    "a step beyond floats": ("--step-scale", "1e308"),
    "weights beyond floats": ("--weight-std", "1e200"),
    "weights below floats": ("--weight-std", "1e-200"),
    "biases beyond floats": ("--bias-std", "1e300"),
    "Forster of fewer rows than columns": ("--forster",),
    "kfac under cross-entropy": ("--loss", "cross-entropy", "--approximations", "kfac"),
    "infinite under cross-entropy": ("--loss", "cross-entropy", "--kernel", "infinite"),
    "one output under cross-entropy": ("--loss", "cross-entropy", "--output-dim", "1"),
    "more samples than a machine holds": ("--num-train", "100000000"),
    "more outputs than a machine holds": ("--output-dim", "1000000000"),
    "explained and limited": ("--explain", "--memory-limit", "1K"),
    "explained and wrong": ("--explain", "--width", "0"),
    "digits: too many rows": ("--dataset", "digits", "--num-train", "1000000"),
    "digits: a class that is not there": ("--dataset", "digits", "--classes", "0,11"),
    "digits: one class": ("--dataset", "digits", "--classes", "3"),
    "digits: a class twice": ("--dataset", "digits", "--classes", "3,3"),
    "digits: too many outputs": ("--dataset", "digits", "--output-dim", "7"),
    "digits: too many inputs": ("--dataset", "digits", "--input-dim", "65"),
    "digits: more components than rows": ("--dataset", "digits", "--input-dim", "20"),
    "data in a folder that is not there": ("--dataset", "cifar10", "--data-dir", "nowhere"),
    "data in a file": ("--dataset", "cifar10", "--data-dir", "file"),
    "mnist without its files": ("--dataset", "fashion-mnist", "--data-dir", "empty"),
    "inputs that are zero": ("--dataset", "zeros.npz", "--input-dim", "2"),
    "targets beyond floats": ("--dataset", "huge.npz", "--input-dim", "4"),
}
#: Other commands.
OTHERS: dict[str, Sequence[str]] = {
    "an unknown command": ("verfy",),
    "an option for a command": ("--verify",),
    "a command in capitals": ("VERIFY",),
    "an empty command": ("",),
    "run: nothing": ("run",),
    "run: an empty name": ("run", ""),
    "run: two studies": ("run", "good.toml", "good.toml"),
    "run: a folder": ("run", "folder.npz"),
    "run: a file that is not there": ("run", "missing.toml"),
    "run: no TOML": ("run", "notes.txt"),
    "run: no text": ("run", "huge.npz"),
    "run: a device": ("run", "/dev/null"),
    "run: an unknown key": ("run", "unknown.toml"),
    "run: into nothing": ("run", "good.toml", "--out", ""),
    "run: into a file": ("run", "good.toml", "--out", "file"),
    "run: into /proc": ("run", "good.toml", "--out", "/proc/none"),
    "run: into another study's results": ("run", "good.toml", "--out", "others"),
    "run: an empty scheduler": ("run", "good.toml", "--scheduler", "", "--out", "out1"),
    "run: no such scheduler": ("run", "good.toml", "--scheduler", "slurm", "--out", "out2"),
    "run: no workers": ("run", "good.toml", "--scheduler", "local:0", "--out", "out3"),
    "run: fewer than none": ("run", "good.toml", "--scheduler", "local:-2", "--out", "out4"),
    "run: workers of a fraction": ("run", "good.toml", "--scheduler", "local:1.5", "--out", "o5"),
    "run: workers by name": ("run", "good.toml", "--scheduler", "local:x", "--out", "out6"),
    "run: more workers than machines": (
        *("run", "good.toml", "--scheduler", "local:1000000", "--out", "out7"),
    ),
    "run: an address without a port": ("run", "good.toml", "--scheduler", "tcp://", "--out", "o8"),
    "run: a limit of nothing": ("run", "good.toml", "--memory-limit", "0", "--out", "out9"),
    "run: a limit of words": ("run", "good.toml", "--memory-limit", "two", "--out", "out10"),
    "run: too small a limit": ("run", "good.toml", "--memory-limit", "1M", "--out", "out11"),
    "run: an unknown option": ("run", "good.toml", "--widht", "3"),
    "report: nothing": ("report",),
    "report: an empty name": ("report", ""),
    "report: a folder that is not there": ("report", "nowhere"),
    "report: a folder without a sweep": ("report", "empty"),
    "report: a file": ("report", "file"),
    "report: a manifest of another kind": ("report", "others"),
    "report: a manifest that is no JSON": ("report", "broken"),
    "report: two folders": ("report", "empty", "empty"),
    "list: an empty name": ("list", ""),
    "list: a folder that is not there": ("list", "nowhere"),
    "list: a folder without studies": ("list", "empty"),
    "list: a file": ("list", "file"),
    "list: a broken study": ("list", "studies"),
    "list: two folders": ("list", "studies", "empty"),
    "doctor: no width": ("doctor", "--width", "0"),
    "doctor: a negative width": ("doctor", "--width", "-5"),
    "doctor: half a width": ("doctor", "--width", "0.5"),
    "doctor: a width beyond arrays": ("doctor", "--width", "1" + "0" * 30),
    "doctor: no samples": ("doctor", "--num-train", "0"),
    "doctor: samples by name": ("doctor", "--num-train", "many"),
    "doctor: an argument": ("doctor", "me"),
    "doctor: an unknown option": ("doctor", "--depth", "3"),
}


def inputs(folder: Path) -> list[Bad]:
    """Every command, and the files that some of them name."""
    from toml_inputs import GOOD

    for name in ("folder.npz", "empty", "others", "broken", "studies"):
        (folder / name).mkdir()
    (folder / "file").write_text("x")
    (folder / "notes.txt").write_text("Dear diary = = [[\n")
    (folder / "good.toml").write_text(GOOD)
    (folder / "unknown.toml").write_text(GOOD.replace("steps", "stepps"))
    (folder / "studies" / "one.toml").write_text("title = 3\n")
    (folder / "others" / "manifest.json").write_text('{"format": 10000}')
    (folder / "others" / "study.toml").write_text("title = 3\n")
    (folder / "broken" / "manifest.json").write_text("{")
    y = np.arange(8.0)
    np.savez(folder / "zeros.npz", x=np.zeros((8, 4)), y=y)
    np.savez(folder / "huge.npz", x=np.eye(8)[:, :4] + 1, y=1e300 * y)
    bad = [
        Bad(COMMAND, f"{option} {value[:40]!r}", argv=(*SMALL, option, value))
        for option, values in VALUES.items()
        for value in values
    ]
    bad.append(Bad(COMMAND, "verify: sound", argv=tuple(SMALL), sound=True))
    bad += [Bad(COMMAND, label, argv=(*SMALL, *added)) for label, added in MORE.items()]
    bad += [Bad(COMMAND, label, argv=tuple(argv)) for label, argv in OTHERS.items()]
    return bad
