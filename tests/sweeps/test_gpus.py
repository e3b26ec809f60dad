import os
import subprocess

import pytest

from ngd_theory.sweeps.gpus import memory_on_demand, visible_gpus, worker_environments

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


@pytest.mark.parametrize(
    ("value", "gpus"),
    [("0,1", ["0", "1"]), ("3, GPU-ab", ["3", "GPU-ab"]), ("", []), ("-1", []), ("2,-1,0", ["2"])],
)
def test_the_environment_says_which_gpus_may_be_used(value, gpus):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == gpus


def test_without_it_every_gpu_of_the_machine(monkeypatch):
    lines = (
        "GPU 0: H200 (UUID: GPU-a)\n  MIG 1g Device 0: (UUID: MIG-b)\nGPU 1: H200 (UUID: GPU-c)\n"
    )
    done = subprocess.CompletedProcess([], 0, stdout=lines)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    assert visible_gpus({}) == ["0", "1"]


def test_a_machine_without_nvidia_smi_has_none(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert visible_gpus({}) == []


def test_workers_take_the_gpus_in_turn():
    found = worker_environments(3, ["4", "7"])
    assert [e["CUDA_VISIBLE_DEVICES"] for e in found] == ["4", "7", "4"]
    assert worker_environments(2, []) == [{}, {}]


def test_memory_is_taken_on_demand_in_the_block_only(monkeypatch):
    monkeypatch.delenv(PREALLOCATE, raising=False)
    with memory_on_demand([]):
        assert PREALLOCATE not in os.environ
    with memory_on_demand(["0"]):
        assert os.environ[PREALLOCATE] == "false"
    assert PREALLOCATE not in os.environ
    monkeypatch.setenv(PREALLOCATE, "true")
    with memory_on_demand(["0"]):
        assert os.environ[PREALLOCATE] == "true"
