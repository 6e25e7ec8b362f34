"""A trainer of another kind: a short script with parameters of its own, named by the manifest."""

from __future__ import annotations

from pathlib import Path

from processes import Fleet, wait_until

SCRIPT = """
import argparse, json, pathlib, sys
asked = argparse.ArgumentParser()
for flag in ("--job", "--out"):
    asked.add_argument(flag, type=pathlib.Path)
asked.add_argument("--describe", action="store_true")
args = asked.parse_args()
if args.describe:
    depth = {"type": "integer", "minimum": 1, "maximum": 9, "default": 3}
    names = {"model": ["forest"], "mode": ["realistic", "oracle"], "split_recipe": ["hosts"]}
    print(json.dumps({"properties": {key: {"enum": value} for key, value in names.items()},
                      "$defs": {"forest": {"type": "object", "additionalProperties": False,
                                           "properties": {"tree_depth": depth}}}}))
    sys.exit()
spec = json.loads(args.job.read_text())["spec"]
(args.out / "artifact").mkdir(parents=True)
(args.out / "artifact" / "metrics.json").write_text(json.dumps({"auroc": 0.75}))
(args.out / "artifact" / "forest.txt").write_text("depth " + str(spec["hyper"]["tree_depth"]))
result = {"v": 1, "status": "done", "metrics": {"auroc": 0.75}}
(args.out / "result.json").write_text(json.dumps(result))
"""


def _manifest(script: Path, hyper: str) -> str:
    return f"""
[manifest]
schema = 1
[trainer]
command = ["{{python}}", "{script}"]
[hosts.default]
[[jobs]]
model = "forest"
mode = "oracle"
hyper = {hyper}
"""


def test_a_foreign_trainer_is_trained_by_the_fleet_and_its_parameters_are_checked(tmp_path: Path) -> None:
    script = tmp_path / "forest.py"
    script.write_text(SCRIPT)
    with Fleet(tmp_path, _manifest(script, "{ tree_depth = 4 }")) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the forest is trained", lambda: fleet.by_status() == {"completed": 1})
        (job,) = fleet.listed()
        assert job["metrics"] == {"auroc": 0.75}
        assert (fleet.folder / "store" / "forest_oracle" / job["artifact"] / "bundle.tar.zst").is_file()

        fleet.manifest.write_text(_manifest(script, "{ tree_dept = 4 }"))
        refused = fleet.jobs("reload", check=False)
        assert refused.returncode != 0
        assert "tree_dept" in refused.stderr
        assert "tree_depth" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert fleet.by_status() == {"completed": 1}
