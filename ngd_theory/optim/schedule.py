"""Growing mini-batches (Martens & Grosse 2015 section 13)."""

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError


@checked
def batch_sizes(first: int, last: int, num_steps: int, *, levels: int = 8) -> list[int]:
    """Sizes of mini-batches that grow exponentially, ``first (last/first)^(k/(num_steps - 1))`` at step k.

    Each is rounded, on a logarithmic scale, to the nearest of ``levels`` sizes; so few programs are compiled.

    Parameters
    ----------
    first, last : int
        Sizes at the first and the last step. The paper grows from 1000 to the whole training set in 500 steps,
        and stays there: ``batch_sizes(1000, n, 500) + [n] * more``.
    num_steps : int
    levels : int
        Largest number of distinct sizes.

    Returns
    -------
    list of int

    Raises
    ------
    InputError
        If a number is below 1, ``last`` is below ``first``, or they differ but ``num_steps`` or ``levels`` is 1.

    Examples
    --------
    >>> batch_sizes(10, 1000, 7, levels=3)
    [10, 10, 100, 100, 100, 1000, 1000]
    """
    given = {"first": first, "last": last, "num_steps": num_steps, "levels": levels}
    for name, value in given.items():
        if value < 1:
            raise InputError(f"{name} is {value}; it must be a whole number of at least 1")
    if last < first:
        raise InputError(f"last is {last}; it must be at least first, {first}")
    if first == last:
        return [first] * num_steps
    for name in ("num_steps", "levels"):
        if given[name] < 2:
            raise InputError(
                f"{name} is 1; batches that grow from {first} to {last} need 2 or more"
            )
    sizes = [round(first * (last / first) ** (j / (levels - 1))) for j in range(levels)]
    return [sizes[round((levels - 1) * k / (num_steps - 1))] for k in range(num_steps)]
