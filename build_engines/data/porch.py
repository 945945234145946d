"""Moments of a home's door in the layout `samples`: a sentence, the home's readings, and what a detector sees outside.

Each is right by one rule; no part of it can be told without the others.
"""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np

from build_engines.data.porch_scene import detected, draw, seen
from calibration.spread import once_each, spread

CHANNELS = (
    "person.door.count", "person.door.score", "person.door.moving", "person.door.standing",
    "person.picture.count", "person.picture.moving", "dog.door.count", "car.picture.count",
)  # fmt: skip
"""Of the stream `objects`: what the recipe reads of detections."""
WINDOW = 8
SAID = {
    "open": (
        "(please |)(open|unlock) the (front |)door", "let (him|her|them|us) in", "open up(| please)",
        "you can open (the door |)now", "(|请)开门", "(|请)把门打开", "让(他|她|他们)进来", "(打开|开)(前门|大门)",
    ),
    "lock": (
        "(please |)(lock|bolt) the (front |)door", "lock up(| for the night| please)",
        "make sure the (front |)door is (locked|bolted)", "(|请)(锁门|锁上门)", "(|请)把(门|大门|前门)锁(上|好)",
    ),
    "ask": (
        "is (anybody|somebody|someone) at the (front |)door", "who is (at the door|outside|there)",
        "is (anybody|someone) (outside|waiting)", "(|现在)(门口|外面|门外)有人吗", "谁在(门口|外面|门外)",
        "有人来(了|)吗",
    ),
    "light": (
        "(turn|switch) on the (porch|outside|outdoor) light", "(porch|outside|outdoor) light on(| please)",
        "light the porch", "(|请)打开(门廊|室外|门口)的灯", "(门廊|室外|门口)开灯",
    ),
    "other": (
        "(play|stop) (some |the |)music", "set a timer for (five|ten|twenty) minutes",
        "what is the weather (like |)(today|tomorrow)", "(turn|switch) (on|off) the (kitchen|bedroom) light",
        "(open|close) the (blinds|window|curtains)", "what time is it", "(播放|停止)音乐", "(今天|明天)天气怎么样",
        "打开(厨房|卧室)的灯", "(打开|关上)(窗户|窗帘)", "现在几点了", "定一个(五|十|二十)分钟的闹钟",
    ),
}  # fmt: skip
"""What is meant to how it is said."""
HELD_OUT = 4
"""Of a template's sentences every one of this number is for the split that is judged: its words are known, not they."""
CHANCES = {"": 0.26, "other": 0.2, "open": 0.22, "ask": 0.14, "lock": 0.1, "light": 0.08}


def rule(said: str, visitor: bool | None, walker: bool | None, home: bool | None, dark: bool | None) -> str:
    """What is right. None: nobody knows, for the stream that would tell is not there."""
    if said == "lock":
        return "lock"
    if said == "light":
        return "light_on"
    if said == "open":
        return "unlock" if visitor and home else "hold"
    if said == "ask":
        return "hold" if visitor is None else "say_somebody" if visitor else "say_nobody"
    if visitor:
        return "announce" if home else "notify"
    return "light_on" if walker and dark else "nothing"


def sentences(said: str, split: str) -> list[str]:
    """How it is said in a split; no sentence is in two."""
    found = [(number, text) for template in SAID[said] for number, text in enumerate(_written_out(template), 1)]
    return [text for number, text in found if (number % HELD_OUT != 0) == (split == "train")]


def _written_out(template: str) -> list[str]:
    parts = [part.split("|") for part in re.split(r"[()]", template)]
    return ["".join(chosen) for chosen in product(*parts)]


def moment(split: str, seed: int, number: int) -> dict[str, Any]:
    """One row of `samples.jsonl`."""
    rng = np.random.default_rng([seed, number])
    home, dark = bool(rng.random() < 0.6), bool(rng.random() < 0.4)
    scene = draw(rng)
    looked = seen(detected(scene, dark, rng), CHANNELS)[-WINDOW:]
    said = str(rng.choice(list(CHANCES), p=list(CHANCES.values())))
    text = str(rng.choice(sentences(said, split))) if said else None
    blind, numb = (bool(chance) for chance in rng.multinomial(1, [0.06, 0.06, 0.88])[:2])  # never both
    label = rule(
        said, None if blind else scene.visitor, None if blind else scene.walker, None if numb else home,
        None if numb else dark,
    )  # fmt: skip
    # A picture that came to nothing: its readings are those of the one before.
    objects = [step if place == 0 or rng.random() > 0.04 else {} for place, step in enumerate(looked)]
    return {
        "id": f"{split}-{number:05d}",
        "label": label,
        "said": text or f"{split}-{number:05d}",
        "text": text,
        "room": None if numb else _room(home, dark, rng),
        "objects": None if blind else [{name: round(value, 3) for name, value in step.items()} for step in objects],
    }


def _room(home: bool, dark: bool, rng: np.random.Generator) -> dict[str, float | None]:
    """No reading tells alone whether somebody is in: who sits still is not seen moving, air takes time to change."""
    values = {
        "hall_motion": float(rng.random() < (0.55 if home else 0.03)),
        "sound_v": abs(rng.normal(0.5, 0.3) if home else rng.normal(0.06, 0.05)),
        "co2_ppm": max(380.0, rng.normal(800, 170) if home else rng.normal(470, 60)),
        "porch_lux": 10 ** (rng.uniform(-1, 0.8) if dark else rng.uniform(2.2, 4.3)),
    }
    return {name: None if rng.random() < 0.04 else round(value, 3) for name, value in values.items()}


def make(folder: Path, split: str, count: int, seed: int) -> None:
    """`folder`/`split`/samples.jsonl with `count` moments, by all cores."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    rows = spread(partial(once_each, partial(moment, split, seed)), range(count))
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / split / "samples.jsonl").write_text("".join(lines), encoding="utf-8")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--train", default=4000, show_default=True, type=click.IntRange(min=100), help="Moments to train with.")
@click.option("--val", default=1000, show_default=True, type=click.IntRange(min=50), help="Moments to evaluate.")
@click.option("--seed", default=1, show_default=True, help="Other seeds draw others.")
def main(folder: Path, train: int, val: int, seed: int) -> None:
    """Make FOLDER/train and FOLDER/val: moments of a home's door, and what is right."""
    from build_engines.data import porch  # noqa: PLW0406  # under the name by which workers find it

    porch.make(folder, "train", train, 2 * seed)
    porch.make(folder, "val", val, 2 * seed + 1)
    click.echo(f"{folder}: {train} moments to train with, {val} to evaluate")


if __name__ == "__main__":
    main()
