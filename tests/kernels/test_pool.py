"""Helpers: every ticket once, failures reported, nobody waited for in vain, nothing left behind."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from meshkernels.kernels import pool


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("tasks", [0, 1, 100])
def test_every_ticket_once(tasks, threads):
    for _ in range(20):
        taken = []
        pool.parallel(taken.extend, tasks, threads)
        assert sorted(taken) == list(range(tasks))


def test_helpers_help():
    """Two tickets that wait for each other end only if two threads hold them."""
    meeting = threading.Barrier(2, timeout=30)
    pool.parallel(lambda tickets: [meeting.wait() for _ in tickets], 2, 2)


@pytest.mark.parametrize("who", ["leader", "helper"])
def test_failures_reach_the_leader(who):
    meeting, leader, ended = threading.Barrier(2, timeout=30), threading.current_thread(), []

    def work(tickets):
        for _ in tickets:
            meeting.wait()
            if (threading.current_thread() is leader) == (who == "leader"):
                raise ZeroDivisionError(who)
            time.sleep(0.02)
            ended.append(True)

    with pytest.raises(ZeroDivisionError, match=who):
        pool.parallel(work, 2, 2)
    assert ended == [True]  # the other one was waited for
    test_every_ticket_once(10, 2)  # and helpers work on


def test_a_helper_that_has_not_begun_is_not_waited_for():
    release = threading.Event()
    with pool.Workers(lambda: release.wait(30), 1):  # keeps the first helper busy
        while pool._workers[0]._tasks.qsize():
            time.sleep(0.001)
        taken = []
        pool.parallel(taken.extend, 10, 2)
        assert taken == list(range(10))
        release.set()


def test_helpers_keep_nothing_of_a_call():
    class Operand:
        pass

    operand, meeting = Operand(), threading.Barrier(2, timeout=30)
    alive = weakref.ref(operand)

    def work(tickets, operand=operand):
        for _ in tickets:
            meeting.wait()

    pool.parallel(work, 2, 2)
    del work, operand
    for _ in range(1000):
        if alive() is None:
            break
        time.sleep(0.001)
    assert alive() is None


@pytest.mark.skipif(pool._this_core is None or len(os.sched_getaffinity(0)) < 2, reason="one core, or not Linux")
def test_helpers_are_kept_off_the_core_of_the_leader():
    mine, helper = os.sched_getaffinity(0), pool._Worker()
    for core in mine:
        helper.keep_off(core)
        assert os.sched_getaffinity(helper.native_id) == mine - {core}
    assert os.sched_getaffinity(0) == mine
    helper.give(None)
    helper.join(30)
    assert not helper.is_alive()


def test_a_forked_child_has_helpers_of_its_own_and_ends():
    script = (
        "import os, threading\n"
        "from meshkernels.kernels import pool\n"
        "def meet():\n"
        "    meeting = threading.Barrier(2, timeout=30)\n"
        "    pool.parallel(lambda tickets: [meeting.wait() for _ in tickets], 2, 2)\n"
        "meet()\n"
        "child = os.fork()\n"
        "meet()\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("who", ["leader", "helper"])
def test_an_exception_takes_the_tickets_away(who):
    """Whoever did not fail stops with the ticket that it has: a Ctrl-C does not wait for the whole product."""
    meeting, leader, taken = threading.Barrier(2, timeout=30), threading.current_thread(), []

    def work(tickets):
        for ticket in tickets:
            taken.append(ticket)
            if ticket < 2:
                meeting.wait()
                if (threading.current_thread() is leader) == (who == "leader"):
                    raise KeyboardInterrupt
                time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt):
        pool.parallel(work, 100_000, 2)
    assert len(taken) < 1000


CHILD = """
import sys, time
sys.path += [ROOT, ROOT + "/llm"]
import numpy as np
import meshkernels as mk
from meshkernels.kernels import pool
from meshkernels.kernels import team
from meshkernels.llm import Llama
from interrupts import at, interrupted, lines
from llama_reference import Synthetic, tiny

pool.threads_for = lambda operations, threads=None: 2
team._cores = lambda: 2
model = Llama(Synthetic(tiny()), 3, threads=2)
"""

SCAN = """
def quiet():  # within ten seconds
    for _ in range(200):
        begin = time.process_time()
        time.sleep(0.05)
        if time.process_time() - begin < 0.02:
            return True
    return False

A = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
for act in (lambda: mk.gemm(A, A, mk.Mesh(3)), lambda: model.decode(9)):
    expected, tried = act(), set()
    while True:
        model.reset()
        _, where = interrupted(act, lambda here: here.startswith(("pool.", "team.")) and here not in tried)
        if not where:
            break
        tried.add(where)
        assert quiet(), f"a thread is at work after an interrupt at {where}"
        assert np.array_equal(act(), expected), where
    assert len(tried) >= 12, tried
"""

END = """
model.decode(9)
met = lines(lambda: model.decode(9))
begun = next(number for number, here in enumerate(met) if here == GIVEN)
_, where = interrupted(lambda: model.decode(9), at(begun + LATER))
assert where
"""


def run_child(script: str) -> None:
    script = f"ROOT = {str(Path(__file__).parents[1])!r}" + CHILD + script
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_no_interrupt_leaves_a_thread_at_work():
    """A child is interrupted at each line of the threads' code once: then no thread works, the next result is right."""
    run_child(SCAN)


@pytest.mark.parametrize("later", [0, 1, 2, 5, 40])
def test_no_interrupt_keeps_the_process_from_its_end(later):
    """The last thing that a child does is interrupted so many lines after a helper was given its task."""
    lines, first = inspect.getsourcelines(pool._Worker.give)
    given = f"pool.py:{first + len(lines) - 1}"
    run_child(END.replace("GIVEN", repr(given)).replace("LATER", str(later)))


def test_a_process_ends_while_a_daemon_thread_leads_helpers():
    script = (
        "import threading, time\n"
        "from meshkernels.kernels import pool\n"
        "begun = threading.Event()\n"
        "def work(tickets):\n"
        "    for _ in tickets:\n"
        "        begun.set()\n"
        "        time.sleep(3600)\n"
        "threading.Thread(target=pool.parallel, args=(work, 10, 2), daemon=True).start()\n"
        "begun.wait(30)\n"
        "time.sleep(0.1)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_process_whose_helpers_are_at_work():
    script = (
        "import os, threading, time\n"
        "from meshkernels.kernels import pool\n"
        "def work(tickets):\n"
        "    for ticket in tickets:\n"
        "        if os.getpid() == parent:\n"
        "            release.wait(30)\n"
        "pool.parallel(list, 4, 2)\n"  # imports and compiles: a fork in the midst of that is fatal, here as anywhere
        "time.sleep(1)\n"
        "parent, release = os.getpid(), threading.Event()\n"
        "leader = threading.Thread(target=pool.parallel, args=(work, 4, 2))\n"
        "leader.start()\n"
        "child = os.fork()\n"
        "taken = []\n"
        "pool.parallel(taken.extend, 10, 2)\n"
        "assert sorted(taken) == list(range(10))\n"
        "release.set()\n"
        "if child:\n"
        "    leader.join(30)\n"
        "    assert not leader.is_alive() and os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)
