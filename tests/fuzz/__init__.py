"""Batteries against hostile files, command lines and moments: ``python -m tests.fuzz``, or ``make fuzz``.

A *battery* is a module with a docstring, ``QUICK`` (how many cases the test suite runs) and ``case(number, random)``,
which returns a name and a check. The check raises `judge.Failure`, or returns how the case ended: "refused" or
"accepted". A case is its battery, seed and number, and nothing else: each failure is printed with the command that
runs it again.

A process that has imported the library and started no thread (`__main__`) forks a child for each call (`child`): a
case costs what the call costs, not the seconds that the imports take, and each has limits of time and memory.
`judge` says what a child may have done.
"""
