"""The one error of the data floor."""

from ngd_theory.errors import InputError


class DataError(InputError):
    """A data set, a data file or a request for rows that cannot be used as given.

    The message is one line: what is wrong, where (file or array), what to do about it.
    """
