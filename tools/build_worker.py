"""Make the worker's single file: `python tools/build_worker.py [FILE]`.

The same source gives the same bytes, whoever builds it where.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from training.fleet.single_file import NAME, build  # noqa: E402  - works from a bare checkout


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
