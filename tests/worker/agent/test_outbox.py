"""What waits for the server's acknowledgement."""

from tuner.wire.sync import Finish, Report
from tuner.worker.agent.outbox import MOST_REPORTS, Outbox


def report(trial: int, step: int) -> Report:
    return Report(trial=trial, attempt=1, step=step, examples=step, elapsed_s=0)


def test_a_request_is_bounded_and_a_last_word_never_overtakes_its_reports() -> None:
    outbox = Outbox()
    for step in range(MOST_REPORTS + 5):
        outbox.report(report(step % 2, step))
    outbox.report(report(2, 0))
    outbox.finish(Finish(trial=0, attempt=1, token="t", outcome="finished"))
    outbox.finish(Finish(trial=9, attempt=1, token="t", outcome="finished"))
    first = outbox.parcel()
    assert [r.step for r in first.reports] == list(range(MOST_REPORTS))
    assert [f.trial for f in first.finished] == [9]
    assert outbox.parcel() == first
    outbox.acknowledge(first)
    second = outbox.parcel()
    assert len(second.reports) == 6 and [f.trial for f in second.finished] == [0]
    outbox.report(report(3, 1))
    outbox.acknowledge(second)
    assert [r.trial for r in outbox.parcel().reports] == [3] and outbox.unsaid() == {}


def test_the_first_last_word_stands() -> None:
    outbox = Outbox()
    outbox.finish(Finish(trial=1, attempt=1, token="t", outcome="finished"))
    outbox.finish(Finish(trial=1, attempt=1, token="t", outcome="drained"))
    assert [f.outcome for f in outbox.parcel().finished] == ["finished"]
