"""The loop closed: a fleet's drives are mined for what the bundle that decided them does not know, what the expert says
of the picked moments is learned beside the rest, and models trained without and with them are judged on other drives.

The two are the shipped recipe's, trained with less than the shipped one.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.fleet_drives import BUNDLE, CAMERA_HZ, Drive, record_all, right_at
from benchmarks.fleet_runs import run
from build_engines.fleet.index import SUMMARY
from build_engines.fleet.labelling import LABELS

RECIPE = Path(__file__).parents[1] / "build_engines" / "recipes" / "vehicle.toml"
LESS = {
    "train_episodes = 80": "train_episodes = 24", "val_episodes = 16": "val_episodes = 8",
    "seconds = 75.0": "seconds = 60.0", "learner_episodes = 60": "learner_episodes = 0",
    "width = 160\nheight = 96": "width = 80\nheight = 48",
    "[train]\nepochs = 9": "[train]\nthreads = 2\nepochs = 8",
    'stages = ["vision", "text"]': "stages = []",
    "[gate]\naccuracy = 0.9\nmacro_f1 = 0.88": "[gate]\naccuracy = 0.7\nmacro_f1 = 0.6",
}  # fmt: skip
"""What the recipe says otherwise: fewer drives to learn from, smaller pictures, FP16 only, lower floors."""
MINED = '\n[mined]\nfolders = ["to-label"]\ntimes = 20\n'
REFUSED = 3
"""Exit code of a comparison that the gate refuses."""
WAYS = ("unlike vision", "drifted")
PICKS = 50
SIGNS, CLEAN = 24, 40
"""Other drives: with the sign, and with nothing planted."""
SIGN_S, CLEAN_S = 4.0, 20.0


def loop(out: Path, seed: int, console: Console) -> dict[str, Any]:
    """The drives of `out`/drives, which begin with `seed`, are mined; others are judged."""
    folder, others = out / "loop", seed + 10_000
    taken = labelled(out / "drives", indexed(out), folder / "to-label")
    console.print(f"loop: of {PICKS} moments {taken}", highlight=False)
    before, after = built(folder, "before", ""), built(folder, "after", MINED)
    signs = [
        Drive(str(folder / "signs" / f"{number:03d}.mcap"), others + number, SIGN_S, "sign", alone=True)
        for number in range(SIGNS)
    ]
    clean = [
        Drive(str(folder / "clean" / f"{number:03d}.mcap"), others + 1000 + number, CLEAN_S, "")
        for number in range(CLEAN)
    ]
    record_all([*signs, *clean], console)
    figures = {name: compared(folder, name, before, after) for name in ("signs", "clean")}
    for name, found in figures.items():
        console.print(f"loop: {name}: {json.dumps(found)}", highlight=False, soft_wrap=True)
    return {"labelled": taken, **figures}


def built(folder: Path, name: str, more: str) -> Path:
    """A bundle by `build-engines run`, of the recipe with `more` at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe, out = folder / f"{name}.toml", folder / name
    recipe.write_text(recipe_text(name) + more, encoding="utf-8")
    data = ("--data", str(folder / "world"), "--work", str(folder / f"{name}-work"), "--out", str(out))
    run(["run", str(recipe), *data])
    return out / "vehicle"


def recipe_text(version: str) -> str:
    """The shipped recipe with less to do."""
    text = RECIPE.read_text(encoding="utf-8")
    for old, new in {'version = "1.0.0"': f'version = "{version}"', **LESS}.items():
        assert text.count(old) == 1, f"{RECIPE.name} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return f"{text}\n[compile]\ntargets = []\n"


def indexed(out: Path) -> Path:
    """The index of `out`/drives, as the bundle that decided them sees them; made where there is none."""
    if not (out / "index" / SUMMARY).is_file():
        bundle = ("--bundle", BUNDLE, "--allow-unsigned")
        run(["fleet", "index", str(out / "drives"), *bundle, "--out", str(out / "index")])
    return out / "index"


def labelled(drives: Path, index: Path, picked: Path) -> dict[str, int]:
    """Mine the drives, and let the expert label the picks into the folder `picked`; how many he gave each label."""
    whose = ("--bundle", BUNDLE, "--allow-unsigned")
    ways = [word for way in WAYS for word in ("--way", way)]
    where = ("--where", "condition <> 'faulty'", "--count", str(PICKS))
    run(["mine", "--index", str(index), *whose, *ways, *where, "--out", str(picked)])
    with (picked / LABELS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts: dict[str, int] = {}
    for row in rows:
        name, _, number = row["id"].rpartition("/")
        row["label"] = right_at(drives / f"{name}.mcap", int(number) / CAMERA_HZ)
        counts[row["label"]] = counts.get(row["label"], 0) + 1
    with (picked / LABELS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run(["mine", "--labelled", str(picked), *whose])
    return counts


def compared(folder: Path, name: str, before: Path, after: Path) -> dict[str, Any]:
    """How both are right on the drives of `folder`/`name`, and what the gate says of the second."""
    report = folder / f"{name}-report"
    bundles = ("--bundle", str(before), "--candidate", str(after), "--allow-unsigned")
    ran = run(["fleet", "compare", str(folder / name), *bundles, "--report", str(report)], allowed=(0, REFUSED))
    found = json.loads((report / "comparison.json").read_bytes())
    sides = dict(zip(("before", "after"), found["standings"], strict=True))
    return {
        "moments": found["standings"][0]["scores"]["count"], "drives": found["recordings"],
        **{f"accuracy_{side}": one["scores"]["accuracy"] for side, one in sides.items()},
        **{f"macro_f1_{side}": one["scores"]["f1_macro"] for side, one in sides.items()},
        **{f"f1_{side}": {label: kind["f1"] for label, kind in one["scores"]["classes"].items()}
           for side, one in sides.items()},
        "gate_passed": ran.code == 0, "lost": found["failures"],
    }  # fmt: skip
