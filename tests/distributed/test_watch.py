"""One world watched from its start to its end: shells play mpiexec and its ranks, and this process writes a rank's page."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from adjoint.distributed import processes, relay, status, watch
from adjoint.distributed.status import Place
from adjoint.distributed.watch import accusation, first_of, hanging, watched

RANKS = 'PMI_RANK=0 sleep 60 & a=$!; PMI_RANK=1 sleep 60 & b=$!; echo "ready"; '         # what a shell that plays mpiexec begins with


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A launch's folder in which this process may have a page."""
    monkeypatch.setenv("ADJOINT_LAUNCH", str(tmp_path))
    monkeypatch.setattr(status, "_page", None)
    monkeypatch.setattr(status, "ASKS", None)
    monkeypatch.setattr(status.atexit, "register", lambda *rest: None)
    return tmp_path


def world(folder, shell, ready=None, *, ranks=2, hang_seconds=60.0, **options):
    """(how a world has ended, what was said); ready is called when a line says that the world is."""
    said = []

    def say(line):
        said.append(line)
        if line == "ready" and ready is not None:
            ready()
    return watched(["sh", "-c", shell], folder, 7, ranks, hang_seconds, say, **options), said


def alive(numbers):
    """Those of them that have not ended."""
    found = []
    for process in map(int, numbers):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [process] * (state != "Z")
    return found


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_lines_by_rank_the_status_and_what_ranks_are_told(folder):
    (folder / "rank-9").write_text("of the world before")
    lines = ('echo "\x1erank 0\x1f$ADJOINT_GENERATION $ADJOINT_LAUNCH"; echo "[1,1]<stderr>: b" >&2; printf "\\377 c\\n"; '
             'printf "\x1erank 2\x1f\\n[7] end"; exit 3')
    ended, said = world(folder, lines)
    assert ended == (3, frozenset(), "") and said == [f"7 {folder}", "rank 1: b", "\ufffd c", "rank 2: ", "[7] end"]
    assert not (folder / "rank-9").exists()
    assert world(folder, "kill -15 $$") == ((143, frozenset(), ": mpiexec was killed"), [])


def test_pieces_of_lines_are_put_together_wherever_they_are_cut():
    """Of two ranks at a time, in the middle of a letter and of a tag."""
    mpich = (b"\x1erank 0\x1floss \xe2\x88\x1erank 12\x1f[3] x\r\n\x1erank 0\x1f\x82 0.5\nof mpiexec [1\n\x1erank 12\x1f\r50%\r100%"
             b"\x1erank 0\x1flast \x1e[")
    openmpi = b"[1,0]<stdout>: a[0]\n[1,2]<stderr>:b[1,0]<stdout>: \n[1,2]<stderr>: c\n"
    for written, expected in ((mpich, ["rank 12: [3] x", "loss \u2202 0.5", "of mpiexec [1", "rank 12: ", "rank 12: 50%", "last \x1e[",
                                       "rank 12: 100%"]), (openmpi, ["a[0]", "", "rank 2: bc"])):
        for size in (1, 2, 7, len(written)):
            said = []
            lines = relay.Relay(said.append)
            for k in range(0, len(written), size):
                lines.take(written[k:k + size])
            lines.end()
            assert sorted(said) == sorted(expected), size


def test_a_world_ends_when_nobody_reads_what_it_says(folder):
    def say(line):
        raise BrokenPipeError
    begin = time.monotonic()
    with pytest.raises(BrokenPipeError):
        watched(["sh", "-c", RANKS + "sleep 0.3; echo more; sleep 60"], folder, 0, 2, 60.0, say)
    assert time.monotonic() - begin < 30


def test_what_a_world_leaves_behind_is_ended(folder):
    """A process that goes on after mpiexec, and that has closed its output."""
    begin = time.monotonic()
    ended, said = world(folder, "sleep 60 >/dev/null 2>&1 & echo $!; exit 0")
    assert ended.status == 0 and time.monotonic() - begin < 30 and not alive(said)


def test_the_rank_that_was_the_first_to_end_is_named(folder):
    ended, said = world(folder, RANKS + 'echo "$a $b"; sleep 0.3; kill -9 $b; wait $b; exit 9', ranks=2)
    number = said[1].split()[1]
    assert ended == (9, frozenset(), f": rank 1 on {socket.gethostname()}, process {number}, not yet in the world, was the first to end")
    assert not alive(said[1].split())


def test_ctrl_c_is_handed_on_and_the_second_kills(folder, monkeypatch):
    stops = "trap 'echo stopping; kill $a $b; exit 5' INT; "
    ended, said = world(folder, RANKS + stops + 'echo "ready"; wait', lambda: None if said_once(folder) else interrupt())
    assert ended.status == 130 and said[-1] == "stopping"
    before = signal.getsignal(signal.SIGINT)
    deaf = "trap '' INT; " + RANKS + "wait"
    begin = time.monotonic()
    ended, said = world(folder, deaf, lambda: (interrupt(), time.sleep(0.5), interrupt()))
    assert ended.status == 130 and time.monotonic() - begin < 8 and signal.getsignal(signal.SIGINT) is before
    both = r"launch: rank 0, process \d+, and rank 1, process \d+, "
    assert re.fullmatch(both + "had not ended before a second signal, SIGINT: killed", said[1])
    monkeypatch.setattr(watch, "GRACE", 0.3)
    ended, said = world(folder, deaf, interrupt)
    assert ended.status == 130 and time.monotonic() - begin < 16
    assert re.fullmatch(both + "have not ended 0.3 s after SIGINT: killed", said[1])


def test_ranks_that_nobody_watches_any_more_are_ended(folder, monkeypatch):
    """What stands between mpiexec and the ranks is killed: mpiexec would not see how they end."""
    monkeypatch.setattr(processes, "ALONE", 0.2)
    between = "(PMI_RANK=0 sleep 60 & PMI_RANK=1 sleep 60 & sleep 0.3; kill -9 $(exec sh -c 'echo $PPID'); wait) & "
    begin = time.monotonic()
    ended, _ = world(folder, between + "wait; sleep 60")
    assert ended == (137, frozenset(), ": a process between mpiexec and the ranks was killed") and 0.5 <= time.monotonic() - begin < 20


def test_all_is_gone_when_all_was_ended(tmp_path):
    """Killed is not yet gone: the end is waited for."""
    told = {**os.environ, "ADJOINT_LAUNCH": str(tmp_path)}
    own = [subprocess.Popen(["sleep", "60"], env=told) for _ in range(8)]
    try:
        processes.end_all(tmp_path)
        assert not alive(each.pid for each in own)
    finally:
        for each in own:
            each.kill()
            each.wait()


def said_once(folder):
    """False from the second call on, so that the interrupt comes when the trap is set."""
    first = not (folder / "once").exists()
    (folder / "once").touch()
    return first


def test_a_signal_for_the_ranks_themselves_where_mpiexec_would_end_at_once(folder):
    """Ranks have pages with the numbers of their processes; this one's belongs to no launch, so mpiexec gets the signal."""
    def page():
        status.join(0)
        interrupt()
    ended, said = world(folder, "trap 'echo told; kill $a $b; exit 5' INT; " + RANKS + "wait", page, signals_ranks=True)
    assert ended.status == 130 and said[-1] == "told"


def test_a_world_in_which_nothing_moves_hangs(folder):
    """Rank 0 waits in a collective; nothing is seen of rank 1. While pages change, or nobody waits, nothing hangs."""
    def page():
        status.join(0)
        time.sleep(0.6)                                     # nobody waits: no hang
        status.enter("all_reduce", "a..b")
    begin = time.monotonic()
    ended, said = world(folder, RANKS + "wait", page, hang_seconds=0.4)
    assert ended == (watch.HUNG, frozenset(), "") and 1.0 <= time.monotonic() - begin < 20
    assert said[1].startswith("launch: nothing has moved for 0.") and len(said) == 2
    assert said[1].endswith("s: rank 1, of which nothing is seen from here, has not entered all_reduce #1 (a..b), in which others wait")


def test_ranks_may_take_their_time_once_one_has_left(folder, monkeypatch):
    """One that has left by sys.exit waits for the others, which may still save: LEAVE is added to the patience."""
    monkeypatch.setattr(status, "LEAVE", 1.0)

    def page():
        status.join(0)
        status.leave_with(3)
        status.enter("leave")
    begin = time.monotonic()
    ended, _ = world(folder, RANKS + "wait", page, hang_seconds=0.3)
    assert ended.status == watch.HUNG and 1.3 <= time.monotonic() - begin < 20


def test_nobody_waits_long_for_a_rank_that_has_ended_its_program(folder, monkeypatch):
    """But as long as ever where another rank is not waiting: it may still compute."""
    monkeypatch.setattr(status, "LEAVE", 0.4)

    def page(other):
        status.join(0)
        (folder / "rank-1").write_text(f"0\t{other}\t\t\tn1\t12\t")
        (folder / "completed-1").touch()
        status.enter("all_reduce", "a..b")
    begin = time.monotonic()
    ended, said = world(folder, RANKS + "wait", lambda: page(0))
    assert ended == (watch.HUNG, frozenset(), "") and 0.4 <= time.monotonic() - begin < 20
    assert said[1].endswith("s: rank 1 on n1, process 12, which has ended its program, has not entered all_reduce #1 (a..b), "
                            "in which others wait") and len(said) == 2
    progress = watch._Progress(folder, 3, 60.0)
    third = Place(2, 0, False, "", "", "n2", 13, ())
    assert not progress._in_vain([*status.places(folder), third]) and not progress._in_vain(status.places(folder))
    assert progress._in_vain([*status.places(folder), third._replace(entered=1, inside=True)])


def test_who_hangs_is_who_has_entered_less_or_has_left():
    place = lambda rank, entered, inside: Place(rank, entered, inside, "all_reduce", "", f"n{rank}", rank, ())
    late, waits, left = place(0, 6, True), place(1, 7, True), place(2, 7, False)
    assert hanging([late, waits, left]) == ([late], waits) and hanging([waits, left]) == ([left], waits)
    assert hanging([waits]) == ([], waits) and hanging([left]) == ([], None) and hanging([]) == ([], None)
    both = accusation([place(0, 6, False), waits, place(2, 6, False)], 3, 2.5)
    assert "rank 0 on n0, process 0, and rank 2 on n2, process 2, have not entered all_reduce #7" in both and "2.5 s" in both


def test_where_the_first_to_end_was(folder):
    class Seen:
        is_whole, orphaned, ended = True, False, [[(0, 11)], [(1, 12), (2, 13)]]
        world = type("World", (), {"pid": os.getpid(), "poll": lambda self: None})()
    here, inside = socket.gethostname(), Place(1, 7, True, "all_reduce", "", "n", 12, ())
    after = Place(2, 7, False, "all_reduce", "", "n", 13, ())
    assert first_of(Seen, [Place(0, 0, False, "", "", "n", 11, ())], set(), {}) == (
        f": rank 0 on {here}, process 11, in no collective yet, was the first to end")
    assert first_of(Seen, [inside, after], {0}, {}) == (
        f": rank 1 on {here}, process 12, inside all_reduce #7, or rank 2 on {here}, process 13, after all_reduce #7, was the first to end")
    Seen.is_whole = False
    assert first_of(Seen, [inside], {0}, {}) == ""
    Seen.orphaned = True
    assert first_of(Seen, [inside], set(), {}) == ": a process between mpiexec and the ranks was killed"


def test_a_process_that_ends_while_its_threads_are_listed_has_no_children(monkeypatch):
    def gone(self, pattern):
        raise FileNotFoundError(self)
        yield
    monkeypatch.setattr(Path, "glob", gone)
    assert processes.children(os.getpid()) == []
