"""The load driver, a process of its own: `python -m bench.load SCENARIO JSON`.

Prints `ready` when the measured part begins, and one JSON object at the end. Speaks raw HTTP over kept connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import secrets
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.line import HOST, Line, post, run

MODEL, MODE = "gbt", "oracle"
TRAINING_PART = 0.6
"""Part of a worker's turn in which it trains."""


def capability(worker: str) -> dict[str, Any]:
    """Return what an ordinary lab machine reports."""
    return {
        "hostname": worker,
        "os": "linux",
        "os_version": "Debian GNU/Linux 12 (bookworm)",
        "arch": "x86_64",
        "cpu_count": 8,
        "ram_bytes": 32 * 2**30,
        "gpus": [],
        "python": "3.11.7",
        "free_disk_bytes": 200 * 2**30,
        "version": "0.1.0",
    }


def claim_body(worker: str) -> dict[str, Any]:
    """Return a claim that was never made before."""
    return {
        "claim_id": secrets.token_hex(12),
        "worker": worker,
        "capability": capability(worker),
        "held_leases": [],
    }


def ready() -> None:
    """Tell the parent that the measured part begins."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def spread(latencies_s: list[float]) -> dict[str, float]:
    """Return the figures of a list of latencies, in milliseconds."""
    if not latencies_s:
        return {"count": 0, "p50_ms": 0.0, "p99_ms": 0.0, "worst_ms": 0.0}
    ordered = sorted(latencies_s)
    return {
        "count": len(ordered),
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "worst_ms": 1000 * ordered[-1],
    }


async def timed(line: Line, request: bytes, latencies_s: list[float]) -> tuple[int, bytes]:
    """Ask and note how long it took."""
    begun = time.perf_counter()
    answer = await line.ask(request)
    latencies_s.append(time.perf_counter() - begun)
    return answer


async def pairs(o: dict[str, Any]) -> dict[str, Any]:
    """Claim and complete jobs on some connections as fast as they answer."""
    headers = o["headers"]
    latencies: list[float] = []
    odd: dict[str, int] = {}
    done = 0
    lines = [await Line.open(o["port"]) for _ in range(o["connections"])]

    async def work(number: int) -> None:
        nonlocal done
        worker, line = f"{o['prefix']}-{number}", lines[number]
        while time.perf_counter() < deadline:
            status, body = await timed(line, post("/v1/job/claim", claim_body(worker), headers), latencies)
            if status != 200:
                odd[f"claim {status} {body[:300]!r}"] = odd.get(f"claim {status} {body[:300]!r}", 0) + 1
                return
            lease = json.loads(body)
            result = {"lease_id": lease["lease_id"], "artifact": o["artifact"], "metrics": {"auroc": 0.9}}
            request = post(f"/v1/job/{lease['job_id']}/complete", result, headers)
            status, body = await timed(line, request, latencies)
            if status != 200:
                odd[f"complete {status} {body[:300]!r}"] = odd.get(f"complete {status} {body[:300]!r}", 0) + 1
                return
            done += 1

    ready()
    begun = time.perf_counter()
    deadline = begun + o["seconds"]
    await asyncio.gather(*(work(number) for number in range(o["connections"])))
    took_s = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "pairs_per_s": done / took_s,
        "odd": odd,
        "driver_cores": (used.ru_utime + used.ru_stime) / took_s,
        **spread(latencies),
    }


async def _in_turn(lines: list[Line], each: Callable[[Line, int], Awaitable[Any]], count: int) -> list[Any]:
    """Run something count times, spread over the lines, one at a time on each."""
    results: list[Any] = [None] * count

    async def serve(start: int, line: Line) -> None:
        for number in range(start, count, len(lines)):
            results[number] = await each(line, number)

    await asyncio.gather(*(serve(start, line) for start, line in enumerate(lines)))
    return results


async def beats(o: dict[str, Any]) -> dict[str, Any]:
    """Take many jobs, then beat at a steady rate, on time whether or not the server keeps up."""
    headers, count = o["headers"], o["workers"]
    lines = [await Line.open(o["port"]) for _ in range(o["connections"])]

    async def take(line: Line, number: int) -> bytes:
        status, body = await line.ask(post("/v1/job/claim", claim_body(f"{o['prefix']}-{number}"), headers))
        if status != 200:
            raise RuntimeError(f"claim answered {status}: {body[:300]!r}")
        lease = json.loads(body)
        progress = {"step": 10, "steps": 300, "phase": "fold 1/5", "metrics": {"loss": 0.31}, "elapsed_s": 12.5}
        beat = {"lease_id": lease["lease_id"], "progress": progress, "held_leases": [lease["lease_id"]]}
        request = post(f"/v1/job/{lease['job_id']}/heartbeat", beat, headers)
        status, body = await line.ask(request)
        if status != 200:
            raise RuntimeError(f"heartbeat answered {status}: {body[:300]!r}")
        return request

    requests = await _in_turn(lines, take, count)
    latencies: list[float] = []
    wrong = 0
    free: asyncio.Queue[Line] = asyncio.Queue()
    for line in lines:
        free.put_nowait(line)

    async def beat(request: bytes, line: Line) -> None:
        nonlocal wrong
        status, _ = await timed(line, request, latencies)
        wrong += status != 200
        free.put_nowait(line)

    ready()
    begun = time.perf_counter()
    total = int(o["rate"] * o["seconds"])
    tasks = set()
    for number in range(total):
        await asyncio.sleep(max(0.0, begun + number / o["rate"] - time.perf_counter()))
        task = asyncio.create_task(beat(requests[number % count], await free.get()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return {"beats_per_s": total / (time.perf_counter() - begun), "wrong": wrong, **spread(latencies)}


async def parked(o: dict[str, Any]) -> dict[str, Any]:
    """Park claims, make one job appear, and see who is answered, when, and who else."""
    headers, operator = o["headers"], {**o["headers"], **o["operator"]}
    control = await Line.open(o["port"])
    lines = [await Line.open(o["port"]) for _ in range(o["idle"])]
    job = f"/v1/job/{o['job']}"
    waits = {**headers, "prefer": "wait=55"}
    parked_at: dict[asyncio.Task[tuple[int, bytes]], int] = {}

    def park(number: int) -> None:
        ask = lines[number].ask(post("/v1/job/claim", claim_body(f"{o['prefix']}-{number}"), waits))
        parked_at[asyncio.ensure_future(ask)] = number

    async def demand(line: Line, path: str, body: dict[str, Any] | None, sent: dict[str, str]) -> None:
        status, answer = await line.ask(post(path, body, sent))
        if status != 200:
            raise RuntimeError(f"{path} answered {status}: {answer[:300]!r}")

    await demand(control, f"{job}/cancel", None, operator)
    for number in range(o["idle"]):
        park(number)
    await asyncio.sleep(o["settle_s"])
    latencies: list[float] = []
    extra = 0
    ready()
    for _ in range(o["rounds"]):
        begun = time.perf_counter()
        await demand(control, f"{job}/requeue", None, operator)
        done, _ = await asyncio.wait(parked_at, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        latencies.append(time.perf_counter() - begun)
        await asyncio.sleep(0.02)
        done = {task for task in parked_at if task.done()}
        answers = {parked_at.pop(task): task.result() for task in done}
        held = {number: json.loads(body) for number, (status, body) in answers.items() if status == 200}
        extra += len(answers) - 1
        for number, lease in held.items():
            await demand(control, f"{job}/cancel", None, operator)
            fail = {"lease_id": lease["lease_id"], "kind": "preempted"}
            await demand(lines[number], f"{job}/fail", fail, headers)
        for number in answers:
            park(number)
        await asyncio.sleep(0.02)
    for line in lines:
        line.close()
    await asyncio.gather(*parked_at, return_exceptions=True)
    return {"extra": extra, **spread(latencies)}


def put(lease: dict[str, Any], headers: dict[str, str]) -> tuple[str, bytes]:
    """Return a small artifact's digest and the request that uploads it; no two jobs have the same."""
    data = lease["job_id"].encode() * 32
    sha256 = hashlib.sha256(data).hexdigest()
    lines = [f"PUT /v1/model/{sha256} HTTP/1.1", f"host: {HOST}", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in {**headers, "x-lease-id": lease["lease_id"]}.items()]
    return sha256, "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def crowd(o: dict[str, Any]) -> dict[str, Any]:
    """Let many workers claim, beat, upload and complete at a steady rate until a number of jobs is done."""
    headers, count = o["headers"], o["workers"]
    period_s = o["seconds"] * count / o["jobs"]
    claims: list[float] = []
    others: list[float] = []
    statuses: dict[str, int] = {}
    lines = [await Line.open(o["port"]) for _ in range(count)]

    async def ask(what: str, line: Line, request: bytes, latencies_s: list[float]) -> dict[str, Any] | None:
        status, body = await timed(line, request, latencies_s)
        name = f"{what} {status}"
        statuses[name] = statuses.get(name, 0) + 1
        return json.loads(body) if body and status < 300 else None

    async def one(line: Line, worker: str) -> bool:
        lease = await ask("claim", line, post("/v1/job/claim", claim_body(worker), headers), claims)
        if lease is None:
            return False
        path, beat = f"/v1/job/{lease['job_id']}", {"lease_id": lease["lease_id"], "held_leases": [lease["lease_id"]]}
        for _ in range(2):
            await ask("heartbeat", line, post(f"{path}/heartbeat", beat, headers), others)
            await asyncio.sleep(period_s * TRAINING_PART / 2)
        sha256, upload = put(lease, headers)
        await ask("upload", line, upload, others)
        result = {"lease_id": lease["lease_id"], "artifact": sha256, "metrics": {"auroc": 0.9}}
        await ask("complete", line, post(f"{path}/complete", result, headers), others)
        return True

    async def work(number: int) -> None:
        turn = number / count
        while True:
            await asyncio.sleep(max(0.0, begun + turn * period_s - time.perf_counter()))
            if not await one(lines[number], f"{o['prefix']}-{number}"):
                return
            turn += 1

    ready()
    begun = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(count)))
    took_s = time.perf_counter() - begun
    asked = sum(statuses.values())
    return {
        "seconds": took_s,
        "per_s": asked / took_s,
        "statuses": statuses,
        "claims": spread(claims),
        **spread(others),
    }


def put_file(o: dict[str, Any]) -> dict[str, Any]:
    """Send one file with one PUT and time it to the answer."""
    path = Path(o["file"])
    size = path.stat().st_size
    lines = [f"PUT /v1/model/{o['sha256']} HTTP/1.1", f"host: {HOST}", f"content-length: {size}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in o["headers"].items()]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    with path.open("rb") as file, socket.create_connection((HOST, o["port"])) as connection:
        ready()
        begun = time.perf_counter()
        connection.sendall(head)
        sent = 0
        while sent < size:
            sent += os.sendfile(connection.fileno(), file.fileno(), sent, 1 << 20)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        took_s = time.perf_counter() - begun
    status = int(answer[9:12])
    if status not in (200, 201):
        raise RuntimeError(f"the upload was answered {answer[:400]!r}")
    return {"status": status, "mib_per_s": size / 2**20 / took_s, "seconds": took_s}


async def _main(scenario: str, options: dict[str, Any]) -> dict[str, Any]:
    if scenario == "put":
        return await asyncio.to_thread(put_file, options)
    scenarios = {"pairs": pairs, "beats": beats, "parked": parked, "crowd": crowd}
    return await scenarios[scenario](options)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(_main(sys.argv[1], json.loads(sys.argv[2])))) + "\n")
