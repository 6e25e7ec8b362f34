"""Make the worker's single file: `python tools/build_worker.py [FILE]`.

The same source gives the same bytes, wherever it is built.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import training.fleet  # noqa: F401 - ends a Python that is too old, before it reads what is new to it

# isort: split
import argparse
import hashlib

from training.fleet.single_file import NAME, build

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Write the file and print its digest."""
    parser = argparse.ArgumentParser(description="Make the worker's single file from this checkout.")
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "dist" / NAME, help="where to write it [dist/]")
    target: Path = parser.parse_args().file
    data = build(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    target.chmod(0o755)
    print(f"{hashlib.sha256(data).hexdigest()}  {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
