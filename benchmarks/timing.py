"""Time several functions in turn in one run, so that a drift of the machine affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax


def interleaved(
    functions: Mapping[str, Callable], rounds: int, pause: float = 0.0, calls: int = 0
) -> dict[str, list[float]]:
    """Seconds of each function in each of ``rounds`` rounds, after one call that compiles.

    A ``pause`` (seconds) before each turn lets the system take memory back and the threads of the last function stop.
    With ``calls``, a time is the mean of that many calls in a row, after one call that does not count. Work that
    threads do after a call then counts for the function that started them, as in training.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(pause)
            if calls:
                jax.block_until_ready(function())
            start = time.perf_counter()
            for _ in range(calls or 1):
                jax.block_until_ready(function())
            seconds[name].append((time.perf_counter() - start) / (calls or 1))
    return seconds


def ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over the rounds of the ratio within each round."""
    return statistics.median(a / b for a, b in zip(seconds, reference, strict=True))
