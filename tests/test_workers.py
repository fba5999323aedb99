"""Helpers: every ticket once, failures reported, nobody waited for in vain, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

from meshkernels.execute import workers


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("tasks", [0, 1, 100])
def test_every_ticket_once(tasks, threads):
    for _ in range(20):
        taken = []
        workers.parallel(taken.extend, tasks, threads)
        assert sorted(taken) == list(range(tasks))


def test_helpers_help():
    """Two tickets that wait for each other end only if two threads hold them."""
    meeting = threading.Barrier(2, timeout=30)
    workers.parallel(lambda tickets: [meeting.wait() for _ in tickets], 2, 2)


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
        workers.parallel(work, 2, 2)
    assert ended == [True]  # the other one was waited for
    test_every_ticket_once(10, 2)  # and helpers work on


def test_a_helper_that_has_not_begun_is_not_waited_for():
    release = threading.Event()
    with workers.Helped(lambda: release.wait(30), 1):  # keeps the first helper busy
        while workers._helpers[0]._tasks.qsize():
            time.sleep(0.001)
        taken = []
        workers.parallel(taken.extend, 10, 2)
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

    workers.parallel(work, 2, 2)
    del work, operand
    for _ in range(1000):
        if alive() is None:
            break
        time.sleep(0.001)
    assert alive() is None


@pytest.mark.skipif(workers._this_core is None or len(os.sched_getaffinity(0)) < 2, reason="one core, or not Linux")
def test_helpers_are_kept_off_the_core_of_the_leader():
    mine, helper = os.sched_getaffinity(0), workers._Helper()
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
        "from meshkernels.execute import workers\n"
        "def meet():\n"
        "    meeting = threading.Barrier(2, timeout=30)\n"
        "    workers.parallel(lambda tickets: [meeting.wait() for _ in tickets], 2, 2)\n"
        "meet()\n"
        "child = os.fork()\n"
        "meet()\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)
