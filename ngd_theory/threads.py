"""One BLAS thread a process, for the processes that are ours."""

import scipy.linalg  # noqa: F401 - its OpenBLAS must be loaded to be limited; JAX loads it lazily
from threadpoolctl import threadpool_limits


def limit_blas_threads() -> None:
    """Let OpenBLAS use one thread in this process, for good.

    JAX calls OpenBLAS (through scipy) for small factorisations only; its worker threads then spin beside
    XLA's and made a K-FAC step at width 4096 half as slow again on two cores. The command line and the
    benchmarks call this; a library that is imported changes nothing.
    """
    threadpool_limits(limits=1, user_api="blas")
