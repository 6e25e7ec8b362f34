"""The first step of a run: the trainer's job description, its contract, and its start.

Guarantees that a trainer runs only once the state that names its shim is on disk, so that a worker started again finds
it.
"""

from __future__ import annotations

import dataclasses
import json

from training.fleet.model.errors import FleetError, TrainerError
from training.fleet.model.jobs import contract_with
from training.fleet.wire.worker import Lease
from training.fleet.worker import start
from training.fleet.worker.process.local import launch
from training.fleet.worker.process.training import Training
from training.fleet.worker.run.run import Run
from training.fleet.worker.run.watch import attend, oom_kills


def train(run: Run) -> None:
    """Start the trainer and stay with it; what keeps it from starting is reported."""
    kills = oom_kills()
    try:
        training = _launch(run)
    except TrainerError as error:
        return run.failed(error.kind, error.message)
    except (FleetError, OSError) as error:
        return run.failed("host_fault", f"the trainer could not be started: {error}")
    run.note("trainer started", model=run.state.lease.spec.get("model"), mode=run.state.lease.spec.get("mode"))
    return attend(run, training, kills)


def _launch(run: Run) -> Training:
    """Start the trainer; its shim gets ready while the state goes to disk."""
    lease, folder, rules, offered = run.state.lease, run.folder, run.rules, run.place.seat
    offered.demand_card()
    _check_contract(run, lease)
    job = start.job_document(lease.job_id, lease.spec, rules.folders, run.place.held, offered, run.place.resume)
    folder.job.write_text(json.dumps(job, ensure_ascii=False), encoding="utf-8")
    command = [*lease.trainer_command, "--job", str(folder.job), "--out", str(folder.out)]
    training = run.training = launch(
        start.argument_vector(command, rules.trainer_dir),
        folder.scratch,
        start.environment(
            offered, folder.scratch, trainer_dir=rules.trainer_dir, pass_env=rules.pass_env, given=lease.trainer_env
        ),
        folder.report,
        grace_s=rules.grace_s,
        log=run.log.take,
        wake=run.wake.set,
    )
    run.state = dataclasses.replace(run.state, step="training", shim=training.identity)
    try:
        folder.save(run.state)
    except OSError:
        training.kill()
        raise
    run.count_from()
    training.go()
    return training


def _check_contract(run: Run, lease: Lease) -> None:
    if lease.trainer_contract is None:
        return
    declared = run.place.contracts.digest(lease.trainer_command, run.folder.scratch)
    found = contract_with(declared, lease.trainer_env) or declared
    if found != lease.trainer_contract:
        raise TrainerError(
            f"this host's trainer declares {found[:19]}…, the manifest was checked against "
            f"{lease.trainer_contract[:19]}…",
            "bring both to the same version and reload",
            kind="spec_rejected",
        )
