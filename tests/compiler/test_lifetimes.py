"""Lifetimes of buffers, by hand: through loops what is read of an earlier pass or of outside, inside them what a pass makes for itself."""

from adjoint.compiler.lifetimes import Lifetimes, checks
from adjoint.compiler.steps import Branch, Repeat


def ranges(steps, bases=None):
    """Of programs whose kernels are the sets of the buffers that they touch."""
    return Lifetimes(steps, set, bases or {}).ranges


def test_steps_in_order():
    assert ranges([{0, 1}, {1, 2}, {2, 0}]) == {0: (0, 2), 1: (0, 1), 2: (1, 2)}


def test_what_a_loop_reads_of_outside_lives_through_it():
    """Positions: 0; 1 before the loop's steps, 2, 3, 4, and 5 behind them; 6."""
    loop = Repeat("loop", 3, (4,), ({1, 2}, {2, 3}, {4}))
    found = ranges([{0, 1}, loop, {3, 5}], {4: 6})
    assert found == {0: (0, 0), 1: (0, 5), 2: (2, 3), 3: (1, 6), 4: (4, 4), 5: (6, 6), 6: (1, 5)}


def test_windows_of_windows_and_loops_in_loops():
    """Window 2 lies in window 1, which lies in 0: the outer loop moves 1, the inner 2."""
    inner = Repeat("inner", 2, (2,), ({2, 3}, {3, 4}))                 # 3 .. 6
    outer = Repeat("outer", 2, (1,), ({5}, inner, {5, 6}))             # 1 .. 8
    found = ranges([{4}, outer, {6}], {2: 1, 1: 0})
    assert found[0] == (1, 8) and found[1] == (3, 6) and found[2] == (4, 4)
    assert found[3] == (4, 5) and found[5] == (2, 7) and found[4] == (0, 8) and found[6] == (1, 9)


def test_the_flag_of_a_while_is_read_until_its_end_and_sides_of_a_branch_live_apart():
    loop = Repeat("while", None, (), ({1},), ({7},), 7, ({2},))
    assert ranges([loop, {2}]) == {7: (0, 4), 1: (2, 2), 2: (0, 5)}
    branch = Branch("cond", 7, ({1},), ({2},))
    assert ranges([{7}, branch, {3}]) == {7: (0, 4), 1: (2, 2), 2: (3, 3), 3: (5, 5)}


def test_checks_are_found_at_any_depth():
    steps = [{0}, Repeat("loop", 3, (), ({1}, Branch("cond", 7, ({2},), ({3},))))]
    assert checks(steps, lambda step: 3 in step) and not checks(steps, lambda step: 7 in step)
