"""One lease, from the start of its trainer to the answer that nothing more is wanted of it.

The steps are those of `folder.RunState`; each is on disk before the call that depends on it, so an attempt begun from a
folder left by an earlier worker goes on where that one stopped, with the trainer if that still lives. Guarantees that
at its end no process of the trainer lives, that a result or a failure that could not be delivered stays in the folder
for the next start, and that a fault of its own is reported and not left to the end of the lease.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from training.fleet.client import Client
from training.fleet.worker.folder import RunFolder, RunState
from training.fleet.worker.journal import Journal
from training.fleet.worker.run.deliver import deliver, report
from training.fleet.worker.run.prepare import train
from training.fleet.worker.run.recover import give_back, recover
from training.fleet.worker.run.run import AttemptOutcome, Rules, Run, Workplace

KILL_S: Final = 10.0


class Attempt:
    """One run. `run` belongs to one thread; the other methods may be called from any.

    Args:
        client: The receiver.
        rules: What the worker keeps trainers to.
        place: Where it runs.
        folder: Its files; a run that begins here has its folders but no state yet.
        state: How far it is.
        journal: Where to say what happens.
        resumed: Whether an earlier worker began it.
    """

    def __init__(
        self,
        client: Client,
        rules: Rules,
        place: Workplace,
        folder: RunFolder,
        state: RunState,
        journal: Journal,
        *,
        resumed: bool = False,
    ) -> None:
        self._run = Run(client, rules, place, folder, state, journal)
        self._resumed = resumed

    @property
    def lease_id(self) -> str:
        """The lease it holds."""
        return self._run.state.lease.lease_id

    @property
    def done_here(self) -> bool:
        """Whether its job never comes back to this host: it is completed, refused for good, or cancelled."""
        return self._run.done_here

    def run(self) -> AttemptOutcome:
        """Go on until nothing more can or need be done."""
        run = self._run
        steps: dict[str, Callable[[Run], None]] = {
            "claimed": give_back if self._resumed else train,
            "training": recover,
            "packed": deliver,
            "failed": report,
            "over": _end,
        }
        try:
            while run.outcome is None:
                self._go(steps[run.state.step])
        finally:
            run.beats.stop()
            run.client.close()
            if run.training is not None and not run.training.ended.is_set():
                run.training.kill()
        run.note("run ended", outcome=run.outcome, why=run.state.why or None)
        return run.outcome

    def outlast(self) -> None:
        """Return once no process of the trainer lives, after `run`: until then its place is not free."""
        training = self._run.training
        if training is not None and not training.ended.wait(KILL_S):
            self._run.note("no job taken in this slot: a process of its trainer cannot be killed; restart this host")
            training.ended.wait()

    def release(self, *, hurry: bool = False) -> None:
        """Give the job back, or finish an upload that is under way.

        Args:
            hurry: Kill the trainer without grace and wait for nobody.
        """
        self._run.release(hurry=hurry)

    def doubt(self) -> None:
        """Ask the receiver about the lease now; a result that came late may still be wanted."""
        self._run.beats.hasten()

    def _go(self, step: Callable[[Run], None]) -> None:
        run = self._run
        try:
            step(run)
        except Exception as error:
            if run.state.step in ("failed", "over"):
                raise
            if run.training is not None:
                run.training.kill()
                run.training.ended.wait(KILL_S)
            run.failed("host_fault", f"a fault of the worker, please report it: {type(error).__name__}: {error}")


def _end(run: Run) -> None:
    run.outcome = "over"
