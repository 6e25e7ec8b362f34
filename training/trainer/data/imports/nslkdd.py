"""Owns the layout of NSL-KDD: `KDDTrain+.txt` and `KDDTest+.txt`, one connection a line, no host and no time.

A line has 41 features, the name of the attack ("normal" for none) and a difficulty. Three features are text. The
published split is kept in a marker column; only values of text that the training file holds are known.

Source: Tavallaee, Bagheri, Lu and Ghorbani, A Detailed Analysis of the KDD CUP 99 Data Set, CISDA 2009; the names and
the three families of features are those of the KDD Cup 1999 task description.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from training.contracts.dataset import Dataset, Features, PublishedSplit, RandomSplit, Roles, Windows
from training.trainer.data.csv_files import csv_batches
from training.trainer.data.imports.folder import Source
from training.trainer.data.imports.values import KnownValues
from training.trainer.faults import HostError

FILES = {"train": "KDDTrain+.txt", "test": "KDDTest+.txt"}
TEXTS = ("protocol_type", "service", "flag")
_BASIC = ("duration", *TEXTS, "src_bytes", "dst_bytes", "land", "wrong_fragment", "urgent")
_CONTENT = (
    "hot",
    "num_failed_logins",
    "logged_in",
    "num_compromised",
    "root_shell",
    "su_attempted",
    "num_root",
    "num_file_creations",
    "num_shells",
    "num_access_files",
    "num_outbound_cmds",
    "is_host_login",
    "is_guest_login",
)
_TRAFFIC = (
    "count",
    "srv_count",
    "serror_rate",
    "srv_serror_rate",
    "rerror_rate",
    "srv_rerror_rate",
    "same_srv_rate",
    "diff_srv_rate",
    "srv_diff_host_rate",
    "dst_host_count",
    "dst_host_srv_count",
    "dst_host_same_srv_rate",
    "dst_host_diff_srv_rate",
    "dst_host_same_src_port_rate",
    "dst_host_srv_diff_host_rate",
    "dst_host_serror_rate",
    "dst_host_srv_serror_rate",
    "dst_host_rerror_rate",
    "dst_host_srv_rerror_rate",
)
COLUMNS = (*_BASIC, *_CONTENT, *_TRAFFIC, "attack", "difficulty")
_TYPES: dict[str, pa.DataType] = dict.fromkeys(COLUMNS, pa.float32()) | dict.fromkeys((*TEXTS, "attack"), pa.string())


def nslkdd_source(folder: Path) -> Source:
    """Look at the two files and describe what they hold.

    Args:
        folder: The folder that holds them.

    Raises:
        SpecError: The training file does not fit.
        HostError: A file is missing or unreadable.
    """
    for name in FILES.values():
        if not (folder / name).is_file():
            raise HostError(f"found no {name} in {folder}, expected {' and '.join(FILES.values())}")
    known = KnownValues(FILES["train"], TEXTS)
    for batch in csv_batches(folder / FILES["train"], _TYPES, COLUMNS):
        known.add(batch)
    dataset = Dataset(
        folder=folder,
        name="nslkdd",
        file="nslkdd.parquet",
        roles=Roles(host=None, label="label"),
        features=Features((*_BASIC, *_TRAFFIC), _CONTENT, ("attack", "difficulty")),
        windows=Windows(1),
        splits={"random": RandomSplit(0.3), "published": PublishedSplit("part")},
        categories=known.sorted(),
    )
    return Source(folder.name, dataset, "binary: is this connection an attack", _batches(folder))


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    for part, name in FILES.items():
        for batch in csv_batches(folder / name, _TYPES, COLUMNS):
            label = pc.cast(pc.not_equal(batch.column("attack"), "normal"), pa.int8())
            marker = pa.repeat(part, batch.num_rows)
            yield pa.RecordBatch.from_arrays([marker, label, *batch.columns], names=["part", "label", *COLUMNS])
