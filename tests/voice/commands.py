"""What the speakers are asked to say: commands of the shipped grammars with near pairs on purpose, and sentences that
are full of the same words and none of them."""

from __future__ import annotations

from edge_runtime.voice.grammar import plain

ROOMS = ("kitchen", "living room", "bedroom", "garage")
HOME = (
    *(f"turn {way} the {room} light" for room in ROOMS for way in ("on", "off")),
    *(f"{way} the {door} door" for door in ("front", "back", "kitchen") for way in ("lock", "unlock")),
    *(f"{way} the {room} blinds" for room in ("kitchen", "bedroom") for way in ("open", "close")),
    *(f"turn {way} {what}" for what in ("all lights", "the fan", "the tv") for way in ("on", "off")),
    "set the living room light to 50 percent",
    "set the temperature to 22 degrees",
    "set the temperature to 19 degrees",
    "set a timer for 10 minutes",
    "start the vacuum",
    "what is the weather today",
)
VEHICLE = (
    *(f"turn {side} at the next junction" for side in ("left", "right")),
    *(f"in {far} metres, turn {side}" for far in (20, 50) for side in ("left", "right")),
    *(f"take the next {side}" for side in ("left", "right")),
    *(f"turn {side} onto {street}" for street in ("Oak Street", "Station Road") for side in ("left", "right")),
    *(f"at the lights, turn {side}" for side in ("left", "right")),
    *(f"go {side} at the traffic light" for side in ("left", "right")),
    *(f"turn to the {side} by the bakery" for side in ("left", "right")),
    "go straight on at the next junction",
    "do not turn, go straight ahead",
    "continue straight through the junction",
    "at the traffic light, keep straight",
    "follow this road",
    "stay on this road",
    "continue along River Road",
    "carry on along this road",
)
FOREIGN = {
    "home": (
        "the light in the kitchen was beautiful this morning",
        "did you turn in your homework on time",
        "my brother locked himself out of the house",
        "I will be off on holiday from Monday",
        "the fan club meets in the garage on Friday",
        "we should close the account at the bank",
        "nobody knows what the weather will be in May",
        "open your books at page twenty two",
        "the door to success is always open",
        "set the table for ten people please",
        "she turned thirty on the first of June",
        "he put the bedroom furniture on the market",
    ),
    "vehicle": (
        "she left the junction box at home",
        "turn the music down please I am tired",
        "you are right that was a great street party",
        "the next train leaves in twenty minutes",
        "have you seen the lights of the city at night",
        "the bakery on the corner has lovely bread",
        "it is straight forward if you read the manual",
        "what is right and what is wrong",
        "there is nothing left in the fridge",
        "the road to the coast was closed last week",
        "take your time there is no hurry at all",
        "he went to school on Church Lane as a boy",
    ),
}
CRITICAL = (("on", "off"), ("lock", "unlock"), ("left", "right"))
"""Words that must not be taken for each other."""


def confused(said: str, heard: str) -> tuple[str, str] | None:
    """The critical words of which one was said and the other heard."""
    words, others = plain(said).split(), plain(heard).split()
    for pair in CRITICAL:
        for one, other in (pair, pair[::-1]):
            if one in words and other not in words and other in others and one not in others:
                return one, other
    return None
