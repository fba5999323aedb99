"""What other processes run is not collected here: importing it would start MPI or JAX in the process of all tests."""

import os

collect_ignore = ["on_ranks.py"] if "TESTS_ON_JAX" in os.environ else ["on_ranks.py", "on_jax.py"]
