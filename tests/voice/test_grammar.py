"""Grammars: what templates stand for, what is refused and by which line, and that nothing is made of an endless one."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.errors import ConfigError
from edge_runtime.pipeline import Pipeline
from edge_runtime.specs import SensorStream
from edge_runtime.voice.grammar import (
    MAX_FORMS,
    MAX_SENTENCES,
    GrammarError,
    number_words,
    parse,
    parse_bytes,
    plain,
    spoken_forms,
    write,
)
from edge_runtime.voice.grammars import shipped_grammar
from edge_runtime.world.commands import templates

pytest.importorskip("hassil", reason="hassil is not installed")


def sentences(text: str) -> list[str]:
    return list(parse(text, "here").sentences)


def test_templates_stand_for_their_sentences_each_once() -> None:
    text = """
    # a comment
    opposites: On, off
    spelling: metres, meters
    <room> = (kitchen|hall)
    turn (on|off) [all] the <room> light   # and another
    in {10..30,10} metres[,] stop
    (now; stop)
    turn on the hall light
    """
    grammar = parse(text, "here")
    lights = [
        f"turn {way} {every}the {room} light"
        for way in ("on", "off")
        for every in ("all ", "")
        for room in ("kitchen", "hall")
    ]
    stops = [f"in {number} metres{comma} stop" for number in (10, 20, 30) for comma in (",", "")]
    assert set(grammar.sentences) == {*lights, *stops, "now stop", "stop now"}
    assert len(grammar.sentences) == len(set(grammar.sentences)) == 8 + 6 + 2
    assert grammar.opposites == (("on", "off"),) and grammar.spellings == (("metres", "meters"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no sentence"),
        ("# only this", "has no sentence"),
        ("go\nturn (left|right", "line 2: is no template"),
        ("go to the <room>", "line 1: there is no rule <room>"),
        ("go to {room}", "line 1: there are no lists, such as {room}; write a rule <room>"),
        ("<a> = <b>\n<b> = <a>\n\ngo <a>", "line 4: rules that refer to each other"),
        ("<a> = x\n<a> = y\ngo <a>", "line 2: there are two rules <a>"),
        ("opposites: on\ngo", "line 1: opposites needs two words or more"),
        ("spelling: a b, c\ngo", "line 1: spelling needs two words or more"),
        ("in {30..10} metres", "line 1: {30..10} has no number"),
        ("in {1..9,0} metres", "line 1: {1..9,0} has no number"),
        ("(" * 40 + "a" + ")" * 40, "line 1: "),
        ("a" * 3000, "line 1: more than 2000 characters"),
        ("{0..9999} or {0..9999}", "line 1: "),
        ("(a|b)" * 200, f"line 1: more than {MAX_SENTENCES} sentences"),
        ("(" + "; ".join("abcdefghijklmnop") + ")", f"line 1: more than {MAX_SENTENCES} sentences"),
        ("<a> = (a|b)(a|b)(a|b)(a|b)\n<b> = <a><a><a><a>\n<c> = <b><b><b><b>\ngo <c>", "line 4: more than"),
        (
            "\n".join(f"go (a|b|c|d|e|f|g|h) (a|b|c|d|e|f|g|h) (a|b|c|d|e|f|g|h) {n}" for n in range(11)),
            "line 10: more",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line_that_names_it(text: str, message: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse(text, "here")
    assert str(caught.value).startswith("grammar here: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_are_utf8() -> None:
    assert parse_bytes(b"\xef\xbb\xbfgo\n", "here").sentences == ("go",)
    with pytest.raises(GrammarError, match="is not UTF-8"):
        parse_bytes(b"caf\xe9", "here")


def test_a_sentence_may_be_written_otherwise_by_who_hears_it() -> None:
    forms = spoken_forms("in 20 metres, turn left", [("metres", "meters"), ("left", "west")])
    assert "In twenty meters turn left" in forms and "in 20 metres turn west" in forms
    assert len(forms) == len(set(forms)) == 16
    many = spoken_forms(" ".join(["10"] * 12), [])
    assert len(many) <= MAX_FORMS and " ".join(["10"] * 12) in many


def test_what_two_ways_to_write_a_sentence_have_in_common() -> None:
    assert plain("In 20 metres, turn left.") == plain("in  20 metres turn Left") == "in 20 metres turn left"
    assert plain("don't") == "don't"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (305, "three hundred five"),
        (9010, "nine thousand ten"),
    ],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert number_words(number) == words


def test_no_two_numbers_are_the_same_words() -> None:
    assert len({number_words(number) for number in range(10_000)}) == 10_000


def test_a_grammar_of_sentences_is_read_as_them() -> None:
    said = ["Turn on the light", "turn on  the light", "turn off the light?", "(what) is {this}", "开灯", "lock it", ""]
    text = write(said, [("on", "off"), ("lock", "unlock")])
    grammar = parse(text, "here")
    assert grammar.sentences == ("Turn on the light", "turn off the light?", "lock it")
    assert grammar.opposites == (("on", "off"),), "nobody says unlock"


def test_the_shipped_grammars_are_grammars() -> None:
    home, vehicle = shipped_grammar("home"), shipped_grammar("vehicle")
    assert {"turn on the kitchen light", "unlock the front door"} <= set(home.sentences)
    assert "turn left at the next junction" in vehicle.sentences
    for grammar in (home, vehicle):
        assert 100 < len(grammar.sentences) <= MAX_SENTENCES
    with pytest.raises(ConfigError, match="there are home, vehicle"):
        shipped_grammar("ship")


ACTIONS = {
    r"turn (on|off) .*light.*|turn the lights (on|off)": ("light_on", "light_off"),
    r"turn (on|off) .*fan": ("fan_on", "fan_off"),
    r"(open|close) .*": ("cover_open", "cover_close"),
    r"(unlock|lock) .*": ("unlock", "lock"),
    r"set the .* light .*": ("light_set",),
    r"set the temperature .*": ("climate_set",),
    r"turn (on|off) the tv|.*volume.*|next song|pause.*": ("media",),
    r".*timer.*": ("timer",),
    r".*vacuum": ("vacuum",),
    r"(what|is) .*": ("query",),
}


def test_the_home_bundle_does_what_its_grammar_lets_be_said() -> None:
    pipeline = Pipeline(open_bundle(bundle_path("shipped:home"), allow_unsigned=True))
    try:
        sensors = pipeline.streams["sensors"]
        assert isinstance(sensors, SensorStream)
        room = {channel.name: channel.mean for channel in sensors.channels} | {
            "co2_ppm": 800.0,
            "pir6": 1.0,
            "pir7": 1.0,
        }
        room |= {"light1_lux": 120.0, "light2_lux": 120.0, "light3_lux": 120.0}  # somebody is there
        for sentence in shipped_grammar("home").sentences:
            ((words, labels),) = (
                (found, found_labels)
                for pattern, found_labels in ACTIONS.items()
                if (found := re.fullmatch(pattern, sentence))
            )
            second = len(labels) == 2 and any(group in ("off", "close", "lock") for group in words.groups())
            assert pipeline.predict({"text": sentence, "sensors": room}).verdict.label == labels[second], sentence
    finally:
        pipeline.close()


def test_the_vehicle_s_grammar_says_what_the_navigator_says() -> None:
    known = {plain(sentence) for sentence in shipped_grammar("vehicle").sentences}
    slots = {"n": "20", "street": "Oak Street", "landmark": "bakery"}
    for meaning, side in (("left", "left"), ("right", "right"), ("straight", ""), ("onward", "")):
        for template in templates("train", "en", meaning):  # type: ignore[arg-type]
            assert plain(template.format(side=side, **slots)) in known, template
    assert sorted(known) == [one for one, _ in pairwise([*sorted(known), ""])]
