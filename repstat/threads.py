"""One BLAS thread for small products: many threads spin on a busy machine and cost more than they give."""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit linear algebra to one thread; parallelism belongs to whoever runs many layers or checkpoints.

    With two BLAS threads the tiles of a mixture took 5 to 15 times the time of one thread on two busy cores.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        yield
