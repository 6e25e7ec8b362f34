"""Moving artifacts: packing on the worker, taking in on the receiver."""

from __future__ import annotations

import hashlib
import os
import random
import statistics
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Figure
from bench.load import claim_body
from bench.stage import Program, call, fsync_p50_ms, load, manifest, receiver, reference
from training.fleet.bundle import pack

_MIB = 2**20


def packing(folder: Path, quick: bool) -> list[Figure]:
    """Pack weights, which shrink a little, and noise, which does not."""
    mib = 16 if quick else 256
    weights = random.Random(7)
    chunk = b"".join(struct.pack("<f", weights.gauss(0, 0.1)) for _ in range(_MIB // 4))
    figures = []
    contents: dict[str, Callable[[], bytes]] = {"float weights": lambda: chunk, "noise": lambda: os.urandom(_MIB)}
    for name, content in contents.items():
        artifact = folder / name
        artifact.mkdir()
        with (artifact / "model.bin").open("wb") as file:
            for _ in range(mib):
                file.write(content())
        speed = max(_pack_speed(artifact, folder / "bundle", mib) for _ in range(1 if quick else 5))
        figures.append(Figure("packing", f"{mib} MiB of {name}", speed, "MB/s", 200, 400, True))
    return figures


def _pack_speed(artifact: Path, target: Path, mib: int) -> float:
    begun = time.perf_counter()
    pack(artifact, target)
    return mib * _MIB / 1e6 / (time.perf_counter() - begun)


def upload(folder: Path, quick: bool) -> list[Figure]:
    """One large upload against Starlette with and without a hash, in turns."""
    mib, rounds = (16, 1) if quick else (1024, 4)
    took: dict[str, list[float]] = {"receiver": [], "hash": [], "plain": []}
    grown = []
    with ExitStack() as stack:
        references: dict[str, Program] = {}
        for kind in ("hash", "plain"):
            (folder / kind).mkdir()
            references[kind] = stack.enter_context(reference("inhaler", str(folder / kind), kind))
        real = stack.enter_context(receiver(folder / "receiver", manifest(rounds + 1)))
        for number in range(rounds + 1):
            path = folder / f"artifact-{number}"
            sha256 = _noise(path, mib if number else 1)
            lease = call(real, "POST", "/v1/job/claim", claim_body(f"uploader-{number}"))
            headers = {**real.headers, "x-lease-id": lease["lease_id"]}
            before = real.rss_mib()
            real.forget_peak()
            results = {"receiver": load("put", real, file=str(path), sha256=sha256, headers=headers)}
            if number:  # the first round is small and warms everything up
                grown.append(real.peak_mib() - before)
                for kind, program in references.items():
                    results[kind] = load("put", program, file=str(path), sha256=sha256)
                for name, result in results.items():
                    took[name].append(result["seconds"])
            path.unlink()
    note = f"{mib} MiB, fsync p50 {fsync_p50_ms(folder):.2f} ms"
    middle = {name: statistics.median(values) for name, values in took.items()}
    speeds = ", ".join(f"{name} {mib / seconds:.0f}" for name, seconds in middle.items()) + " MiB/s"
    return [
        Figure(
            "upload", "speed against inline hashing", middle["hash"] / middle["receiver"], "x", 1.0, None, True, speeds
        ),
        Figure("upload", "speed against no hashing", middle["plain"] / middle["receiver"], "x", 0.0, 0.95, True, note),
        Figure("upload", "memory added", max(grown), "MiB", 4, 4),
    ]


def _noise(path: Path, mib: int) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(mib):
            data = os.urandom(_MIB)
            digest.update(data)
            file.write(data)
    return digest.hexdigest()
