"""One BLAS thread per process, for the package's own processes."""

import scipy.linalg  # noqa: F401 - its OpenBLAS must be loaded to be limited; JAX loads it lazily
from threadpoolctl import threadpool_limits


def limit_blas_threads() -> None:
    """Limit OpenBLAS to one thread in this process, permanently.

    JAX calls OpenBLAS (through scipy) for factorisations only. After eigenvalues, LU and very large factors its worker
    threads spin for a while and take cores from XLA. Other factors and solves are made of pieces that need one thread
    (`ngd_theory.linalg`). The command line and comparisons with other packages call this function; importing the
    package changes nothing.
    """
    threadpool_limits(limits=1, user_api="blas")
