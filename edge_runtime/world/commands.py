"""What a navigator says, in English and Chinese: sentences for `left`, `right`, `straight` and for the road between.

The split `val` has phrasings of its own, so that a model is tried on sentences that it was never shown.
"""

# ruff: noqa: RUF001 - Chinese sentences have Chinese commas

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edge_runtime.world.town import Direction

Split = Literal["train", "val"]
Meaning = Literal["left", "right", "straight", "onward"]
"""`onward`: just follow this road; says nothing about the junction ahead."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence and what it means."""

    text: str
    lang: Literal["en", "zh"]
    meaning: Meaning


_SIDES_EN = {"left": "left", "right": "right"}
_SIDES_ZH = {"left": "左", "right": "右"}
_STREETS_EN = {
    "train": (
        "Oak Street", "Mill Road", "Station Road", "Park Avenue", "Church Lane", "Market Street", "River Road",
        "High Street", "Garden Street", "School Lane",
    ),
    "val": ("Harbour Road", "Elm Avenue", "Castle Street", "Bridge Lane"),
}  # fmt: skip
_STREETS_ZH = {
    "train": (
        "人民路",
        "解放路",
        "中山路",
        "建设街",
        "和平大道",
        "新华路",
        "长江路",
        "文化街",
        "公园路",
        "学院路",
    ),
    "val": ("南京路", "光明街", "友谊大道", "青年路"),
}
_LANDMARKS_EN = {"train": ("bakery", "bank", "school", "petrol station"), "val": ("library", "post office")}
_LANDMARKS_ZH = {"train": ("银行", "学校", "加油站", "医院"), "val": ("图书馆", "邮局")}
_FILLERS_EN = {
    "train": ("", "", "", "please ", "okay, ", "now ", "then ", "right now, ", "all right, ", "um, "),
    "val": ("", "", "well, ", "could you ", "all right then, "),
}
_FILLERS_ZH = {
    "train": ("", "", "", "请", "请您", "好，", "那么，", "嗯，", "麻烦"),
    "val": ("", "", "好的，请", "那就"),
}

_TURN_EN = {
    "train": (
        "turn {side}", "turn {side} at the next junction", "take the next {side}", "take a {side} here",
        "turn {side} onto {street}", "in {n} metres, turn {side}", "in {n} metres turn {side} onto {street}",
        "at the lights, turn {side}", "go {side} at the traffic light", "make a {side} turn",
        "make a {side} at the intersection", "next {side} please", "hang a {side} at the crossing",
        "we need to go {side} up ahead", "turn to the {side} by the {landmark}", "it is the next street on the {side}",
        "{side} turn ahead in {n} metres", "at {street}, go {side}", "keep going and then turn {side} at the junction",
        "take {street} on your {side}",
    ),
    "val": (
        "turn {side} up ahead", "take the {side} turn in {n} metres", "at the next intersection go {side}",
        "go {side} onto {street}", "after the {landmark} turn {side}", "turn {side} at the crossing by the {landmark}",
        "make the next {side}", "{side} at the lights",
    ),
}  # fmt: skip
_STRAIGHT_EN = {
    "train": (
        "go straight", "go straight ahead", "go straight on at the next junction", "drive straight on at the lights",
        "continue straight through the junction", "straight across the intersection", "in {n} metres, go straight",
        "go straight over {street}", "at the traffic light, keep straight", "head straight past the {landmark}",
        "do not turn, go straight ahead", "straight on at the crossing", "stay straight at {street}",
        "cross the junction and go straight", "just go straight through", "in {n} metres continue straight ahead",
    ),
    "val": (
        "drive straight ahead at the junction", "keep straight through the lights", "straight over the crossing",
        "in {n} metres keep straight on", "do not turn at {street}, go straight", "go straight past the {landmark}",
    ),
}  # fmt: skip
_ONWARD_EN = {
    "train": (
        "continue on this road", "follow this road", "follow the road", "stay on this road", "follow {street} for now",
        "keep following the road", "continue along {street}", "stay on {street} until I tell you",
        "carry on along this road", "nothing to do for now, follow the road", "you are on {street} now",
        "drive along this street",
    ),
    "val": (
        "stay on this street for now", "carry on along {street}", "keep following this street",
        "continue along this road for now", "follow {street}",
    ),
}  # fmt: skip
_TURN_ZH = {
    "train": (
        "{side}转", "向{side}转", "在下一个路口{side}转", "前方路口{side}转", "前方{n}米{side}转", "{n}米后{side}转",
        "{n}米后{side}转进入{street}", "到红绿灯{side}转", "前面红绿灯向{side}拐", "{side}拐", "在路口往{side}拐",
        "{side}转进入{street}", "到{landmark}那里{side}转", "下个路口往{side}走", "前方请{side}转弯",
        "到{street}向{side}转", "准备{side}转", "在十字路口{side}转弯",
    ),
    "val": (
        "下一个路口向{side}转", "前面往{side}拐", "过了{landmark}{side}转", "{n}米后向{side}转弯",
        "到红绿灯那里往{side}走", "在{street}{side}转", "前方十字路口{side}拐",
    ),
}  # fmt: skip
_STRAIGHT_ZH = {
    "train": (
        "直行", "直走", "一直往前走", "在下一个路口直行", "前方路口直行", "前方{n}米直行", "过红绿灯直行",
        "不要转弯，直行", "前面红绿灯直走", "直行穿过{street}", "在十字路口直走", "通过路口后继续直行",
        "经过{landmark}直行", "{n}米后直行通过路口",
    ),
    "val": ("下个路口直走", "到红绿灯直行通过", "{n}米后在路口直行", "不要拐弯，在{street}直行", "前方十字路口直走"),
}  # fmt: skip
_ONWARD_ZH = {
    "train": (
        "沿当前道路行驶", "沿着这条路走", "沿{street}行驶", "沿当前道路继续行驶", "继续沿这条路开", "先沿{street}走",
        "现在在{street}上", "跟着这条路走", "沿道路行驶", "暂时沿这条路行驶",
    ),
    "val": ("沿着{street}继续开", "先沿当前道路走", "继续沿这条路行驶", "跟着道路行驶"),
}  # fmt: skip


def templates(split: Split, lang: Literal["en", "zh"], meaning: Meaning) -> tuple[str, ...]:
    """The phrasings of one split, with their slots."""
    if meaning in ("left", "right"):
        return (_TURN_EN if lang == "en" else _TURN_ZH)[split]
    if meaning == "straight":
        return (_STRAIGHT_EN if lang == "en" else _STRAIGHT_ZH)[split]
    return (_ONWARD_EN if lang == "en" else _ONWARD_ZH)[split]


def say(rng: np.random.Generator, split: Split, meaning: Meaning, metres: float = 0.0) -> Sentence:
    """A sentence of this meaning; `metres` is the distance to the junction, said in round figures."""
    lang: Literal["en", "zh"] = "en" if rng.random() < 0.55 else "zh"
    choices = templates(split, lang, meaning)
    template = choices[int(rng.integers(len(choices)))]
    english = lang == "en"
    streets, landmarks, fillers = (
        (_STREETS_EN, _LANDMARKS_EN, _FILLERS_EN) if english else (_STREETS_ZH, _LANDMARKS_ZH, _FILLERS_ZH)
    )
    text = template.format(
        side=(_SIDES_EN if english else _SIDES_ZH).get(meaning, ""),
        n=max(10, round(metres / 10.0) * 10),
        street=streets[split][int(rng.integers(len(streets[split])))],
        landmark=landmarks[split][int(rng.integers(len(landmarks[split])))],
    )
    text = fillers[split][int(rng.integers(len(fillers[split])))] + text
    if english and rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return Sentence(text, lang, meaning)


class Navigator:
    """Says where to go: about 45 m before each stop line, again every 5 s until it is crossed, and onward after it.

    `lose` is the probability that a junction's command is not said before the car has waited at the line, and that
    an `onward` sentence is not said at all (for training data).
    """

    SAY_M, AGAIN_S, PATIENCE_S = 45.0, 5.0, 3.0
    _WEIGHTS: ClassVar[dict[Direction, float]] = {"left": 0.36, "right": 0.36, "straight": 0.28}

    def __init__(self, rng: np.random.Generator, split: Split, lose: float = 0.0) -> None:
        self._rng, self._split, self._lose = rng, split, lose
        self.direction: Direction | None = None
        """The way through the junction ahead; set on entering a road."""
        self._due_s = 0.0
        self._mute = False
        self._stood_s = 0.0

    def enter_road(self, exits: dict[Direction, float]) -> Sentence | None:
        """Choose the way through the next junction; `exits` gives a weight to each that exists."""
        directions = sorted(exits)
        weights = np.array([self._WEIGHTS[way] * exits[way] for way in directions])
        self.direction = directions[int(self._rng.choice(len(directions), p=weights / weights.sum()))]
        self._due_s = 0.0
        self._mute = bool(self._rng.random() < self._lose)
        self._stood_s = 0.0
        silent = bool(self._rng.random() < self._lose)
        sentence = say(self._rng, self._split, "onward")
        return None if silent else sentence

    def approach(self, t: float, dt: float, to_line: float, speed: float) -> Sentence | None:
        """What to say now, `to_line` metres before the stop line; `t` in seconds."""
        if self.direction is None or to_line > self.SAY_M:
            return None
        if self._mute:
            self._stood_s += dt if speed < 0.3 and to_line < 15.0 else 0.0
            if self._stood_s < self.PATIENCE_S:
                return None
            self._mute = False
        if t < self._due_s:
            return None
        self._due_s = t + self.AGAIN_S
        return say(self._rng, self._split, self.direction, to_line)
