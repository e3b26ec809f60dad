from urllib.error import URLError

import numpy as np
import pytest
from sklearn import datasets

from ngd_theory.data import DataError, load

X = np.random.default_rng(0).standard_normal((12, 5))
WORDS = np.array(["yes", "no"] * 6, dtype=object)


@pytest.fixture
def fetch(monkeypatch):
    """Replace the download; returns the dict its arguments are written to."""
    calls = {}

    def install(result):
        def fetch_openml(name, **arguments):
            calls.update(arguments, name=name)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(datasets, "fetch_openml", fetch_openml)
        return calls

    return install


def test_words_become_classes(fetch, tmp_path):
    calls = fetch((X, WORDS))
    data = load("openml:thing", classes=("yes", "no"), num_train=6, data_dir=tmp_path)
    assert (calls["name"], calls["version"], calls["as_frame"]) == ("thing", "active", False)
    assert calls["data_home"] == str(tmp_path)
    assert data.description["source"] == "OpenML thing"
    assert data.description["classes"] == ["yes", "no"]
    assert data.input_shape == (5,)


def test_a_version_can_be_asked_for(fetch):
    calls = fetch((X, WORDS))
    data = load("openml:thing@2", num_train=6)
    assert (calls["version"], calls["data_home"]) == (2, None)
    assert data.description["source"] == "OpenML thing version 2"


def test_numbers_become_regression_targets(fetch):
    fetch((X, X[:, 0]))
    data = load("openml:thing", num_train=6, standardise=False, unit_norm=False)
    assert data.labels is None
    np.testing.assert_array_equal(data.targets, data.inputs[:, :1])


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), ValueError("Dataset thing\nnot found"), TimeoutError()]
)
def test_a_failed_download_is_one_line_with_a_way_out(fetch, error):
    fetch(error)
    with pytest.raises(DataError, match=r"openml:thing could not be fetched \(.+\).* network") as e:
        load("openml:thing", num_train=6)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((X.astype(object), WORDS), "non-numeric"),
        ((object(), WORDS), "sparse"),
        ((X, None), "no targets"),
        ((X, np.column_stack([WORDS, WORDS])), "several class targets"),
        ((np.where(X > 1, np.nan, X), WORDS), "NaN"),
    ],
)
def test_data_that_cannot_be_used_are_refused(fetch, result, message):
    fetch(result)
    with pytest.raises(DataError, match=message):
        load("openml:thing", num_train=6)


@pytest.mark.parametrize("name", ["openml:", "openml:thing@new"])
def test_a_name_that_names_nothing_is_refused(name):
    with pytest.raises(DataError, match="names no data set"):
        load(name, num_train=6)
