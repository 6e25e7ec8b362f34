"""A trainer for the tests under Wine: does what `hyper.act` says, with the standard library alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

DECLARATION = {
    "title": "tiny",
    "properties": {
        "mode": {"enum": ["oracle"]},
        "split_recipe": {"enum": ["hosts"]},
        "model": {"enum": ["tiny"]},
    },
    "$defs": {
        "tiny": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"act": {"type": "string"}, "mark": {"type": "string"}},
        }
    },
}


def main() -> int:
    job, out = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[4])
    hyper, resume = job["spec"]["hyper"], Path(job["resume"])
    with (out / "progress.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": 5, "steps": 10, "phase": "fold 1/2", "metrics": {"loss": 0.5}}) + "\n")
    if hyper["act"] == "fail":
        sys.stderr.write("ValueError: column cpu holds no numbers\n")
        return 1
    if hyper["act"] in ("listen", "ignore") and not (resume / "saved").exists():
        work_on(hyper, resume)
        return 75
    (out / "artifact").mkdir()
    (out / "artifact" / "model.txt").write_bytes(b"model")
    result = {"v": 1, "status": "done", "metrics": {"auroc": 0.75, "resumed": (resume / "saved").exists()}}
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


def work_on(hyper: dict[str, str], resume: Path) -> None:
    """Train with a helper for ever; one that heeds a stop saves a checkpoint and returns."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", hyper["mark"]])
    if hyper["act"] == "ignore":
        (resume / "saved").touch()
    while hyper["act"] == "ignore" or not Path(os.environ["CIS490_STOP_FILE"]).exists():
        time.sleep(0.05)
    (resume / "saved").touch()


if __name__ == "__main__":
    if "--describe" in sys.argv:
        sys.stdout.write(json.dumps(DECLARATION))
        sys.exit(0)
    sys.exit(main())
