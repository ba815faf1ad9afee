"""Time, error and memory of repstat beside its peers, in one run: ``make bench``.

Writes docs/benchmarks.md. ``--quick`` takes smaller settings, for those who change the benchmarks;
``--output`` writes elsewhere and ``--only`` runs some sections.
"""

import os
import sys
from pathlib import Path

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
"""What compiled libraries read when they load, so before any import of them."""

if __name__ == "__main__":
    root = str(Path(__file__).resolve().parents[1])
    os.environ.update(ONE_THREAD)
    # Child processes find the modules too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, root)
    from benchmarks.suite import main

    main()
