"""The same schedules on engines that others built: MPI between processes, JAX between accelerators.

Each engine is an optional extra, imported when it is first asked for. Both read a schedule through `messages`: who
sends which slot to whom in one move. No engine knows an algorithm by name.
"""
