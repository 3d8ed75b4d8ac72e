"""When a run is saved, by a clock that the test turns."""

import types

import pytest

from cyclical_jax.training import keeper as keeper_module
from cyclical_jax.training.checkpoints import CheckpointError
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.keeper import Keeper, StoppedError

TIMETABLE = Timetable(windows=((25, 1),), micro_steps_per_epoch=10, log_every=10, validate_every=10)


class Recorder:
    def __init__(self, error=None):
        self.saved, self.held, self.waited, self.error = [], [], 0, error
        self.ends = []
        self.num_held_saved = 0

    def save(self, snapshot, worth=None, *, is_cycle_end=False):
        self.saved.append((int(snapshot.state.micro_step), worth))
        self.ends += [int(snapshot.state.micro_step)] * is_cycle_end

    def hold(self, snapshot, worth):
        self.held.append((int(snapshot.state.micro_step), worth))

    def save_held(self):
        self.num_held_saved += 1
        if self.error:
            raise self.error

    def check(self):
        if self.error:
            raise self.error

    def wait(self):
        self.waited += 1


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(seconds=100.0)
    fake = types.SimpleNamespace(monotonic=lambda: now.seconds)
    monkeypatch.setattr(keeper_module, "time", fake)
    return now


def snapshot(done):
    return types.SimpleNamespace(state=types.SimpleNamespace(micro_step=done, step=done))


def call(keeper, clock, seconds, done, worth=None, timetable=TIMETABLE):
    clock.seconds += seconds
    assert keeper.agree(seconds) == seconds
    keeper.keep(snapshot(done), timetable, done, worth)


RESTARTS = TIMETABLE._replace(cycle_ends=(4, 12, 25))


def test_the_ends_of_cycles_are_saved_at_their_micro_steps_whenever_the_last_save_was(clock):
    recorder = Recorder()
    keeper = Keeper(recorder, every=1000, keeps_cycle_ends=True)
    assert [keeper.next_stop(RESTARTS, done) for done in (0, 3, 4, 11, 12)] == [4, 4, 12, 12, 25]
    for done, worth in ((3, None), (4, 0.5), (10, 0.25), (12, None), (25, None)):
        call(keeper, clock, 1, done, worth, RESTARTS)
    assert recorder.ends == [4, 12, 25] and recorder.held == [(10, 0.25)]
    assert recorder.saved == [(4, 0.5), (12, None), (25, None)]
    keeper.finish(snapshot(25), None)  # which is there already


def test_ends_of_cycles_and_of_epochs_are_both_stops(clock):
    keeper = Keeper(Recorder(), every=0, keeps_cycle_ends=True)
    assert [keeper.next_stop(RESTARTS, done) for done in (0, 4, 10, 12, 20)] == [4, 10, 12, 20, 25]


def test_without_the_option_no_end_of_a_cycle_is_a_stop(clock):
    recorder = Recorder()
    keeper = Keeper(recorder, every=1000)
    assert keeper.next_stop(RESTARTS, 0) == 25
    call(keeper, clock, 1, 4, 0.5, RESTARTS)
    assert recorder.saved == [] and recorder.held == [(4, 0.5)]


def test_a_run_that_is_stopped_at_an_end_or_goes_on_from_one_keeps_it(clock):
    recorder, answers = Recorder(), iter([True])
    keeper = Keeper(recorder, keeps_cycle_ends=True, is_stopping=lambda: next(answers))
    with pytest.raises(StoppedError):
        call(keeper, clock, 1, 12, None, RESTARTS)
    assert recorder.ends == [12]
    Keeper(recorder, keeps_cycle_ends=True).keep(snapshot(4), RESTARTS, 4)  # its first look
    assert recorder.ends == [12, 4]


def test_a_run_is_saved_at_the_first_end_of_an_epoch_after_its_time(clock):
    recorder = Recorder()
    keeper = Keeper(recorder, every=30)
    call(keeper, clock, 29, 10)
    assert recorder.saved == [] and keeper.next_stop(TIMETABLE, 10) == 25
    call(keeper, clock, 1, 13)
    assert recorder.saved == [] and keeper.next_stop(TIMETABLE, 13) == 20
    call(keeper, clock, 1, 20, 0.75)
    assert recorder.saved == [(20, 0.75)] and keeper.next_stop(TIMETABLE, 20) == 25
    call(keeper, clock, 29, 25)
    assert recorder.saved == [(20, 0.75)]
    keeper.finish(snapshot(25), 0.5)
    assert recorder.saved == [(20, 0.75), (25, 0.5)] and recorder.waited == 1


def test_a_validation_between_two_saves_is_held(clock):
    recorder = Recorder()
    keeper = Keeper(recorder, every=30)
    call(keeper, clock, 29, 10, 0.5)
    call(keeper, clock, 2, 13, 0.25)  # due, but within an epoch
    call(keeper, clock, 0, 15)
    call(keeper, clock, 0, 20, 0.75)
    assert recorder.saved == [(20, 0.75)] and recorder.held == [(10, 0.5), (13, 0.25)]


def test_every_zero_seconds_is_every_epoch(clock):
    recorder = Recorder()
    keeper = Keeper(recorder, every=0)
    for done in (3, 10, 14, 20, 25):
        call(keeper, clock, 0, done)
    assert [micro_step for micro_step, _ in recorder.saved] == [10, 20, 25]


def test_a_run_that_is_to_stop_is_saved_where_it_is(clock):
    recorder, answers = Recorder(), iter([False, True])
    keeper = Keeper(recorder, is_stopping=lambda: next(answers))
    call(keeper, clock, 1, 3)
    with pytest.raises(StoppedError, match="stopped after 7 updates, and saved"):
        call(keeper, clock, 1, 7)
    assert recorder.saved == [(7, None)] and recorder.waited == 1


def test_a_run_that_is_to_stop_is_saved_within_what_lasts_long(clock):
    recorder, answers = Recorder(), iter([False, False, True])
    keeper = Keeper(recorder, every=0, is_stopping=lambda: next(answers))
    keeper.agree(1.0)
    keeper.pause(snapshot(10))
    assert recorder.saved == []
    with pytest.raises(StoppedError, match="stopped after 10 updates, and saved"):
        keeper.pause(snapshot(10))
    assert recorder.saved == [(10, None)] and recorder.waited == 1


def test_a_save_that_failed_ends_the_run_at_the_next_call(clock):
    keeper = Keeper(Recorder(error=OSError("full")))
    with pytest.raises(OSError, match="full"):
        call(keeper, clock, 1, 3)


def test_all_processes_do_what_one_of_them_is_asked(clock, monkeypatch):
    recorder = Recorder()
    keeper = Keeper(recorder, every=30)
    monkeypatch.setattr(keeper_module, "largest_of_all", lambda values: (9.0, 31.0, 1.0))
    assert keeper.agree(2.0) == 9.0
    assert keeper.next_stop(TIMETABLE, 13) == 20
    with pytest.raises(StoppedError):
        keeper.keep(snapshot(3), TIMETABLE, 3)


def test_without_checkpoints_nothing_happens(clock):
    keeper = Keeper(every=0, is_stopping=lambda: True)
    call(keeper, clock, 99, 10)
    keeper.finish(snapshot(25), None)
    assert keeper.next_stop(TIMETABLE, 3) == 25


def leave(keeper, error):
    with pytest.raises(type(error)):
        with keeper.saving_the_best():
            raise error


def test_the_best_so_far_is_saved_where_a_run_ends_with_an_error():
    recorder, before = Recorder(), []
    keeper = Keeper(recorder, before_save=lambda: before.append(recorder.num_held_saved))
    leave(keeper, FloatingPointError("loss is nan"))
    leave(keeper, ValueError("of a technique"))
    assert before == [0, 1] and recorder.num_held_saved == recorder.waited == 2
    with keeper.saving_the_best():
        pass
    leave(Keeper(), ValueError("without checkpoints"))
    told = StoppedError("saved"), CheckpointError("full"), WorkdirError("full")
    for error in (*told, KeyboardInterrupt()):
        leave(keeper, error)
    assert recorder.num_held_saved == 2


def test_of_several_processes_none_waits_for_one_that_has_ended(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(keeper_module.jax, "process_count", lambda: 2)
    leave(Keeper(recorder), OSError("of one process"))
    assert recorder.num_held_saved == 0
    leave(Keeper(recorder), FloatingPointError("in all of them"))
    assert recorder.num_held_saved == 1


def test_a_best_that_cannot_be_saved_does_not_hide_the_error(caplog):
    leave(Keeper(Recorder(error=CheckpointError("full"))), FloatingPointError("loss is nan"))
    assert caplog.messages == ["the best checkpoint so far could not be saved: full"]
