"""Lists of common names, from Faker (MIT): given and family names of English-speaking countries and India, and places;
and common words."""

from __future__ import annotations

from typing import Literal

import numpy as np

GIVEN_ONLY, GIVEN_AND_FAMILY = 0.45, 0.4
"""How often a person is called by the given name alone, and by both; else by the family name."""
LOWER, UPPER = 0.2, 0.04
"""How often people write a name without capitals, and all in capitals."""


def common_words() -> list[str]:
    """About a thousand common English words, none of them a name."""
    from faker.providers.lorem.en_US import Provider as Words

    return sorted({word for word in Words.word_list if word.isalpha() and word.islower()})


class CommonNames:
    """Draws names as people write them. The same generator gives the same names."""

    def __init__(self) -> None:
        from faker.providers.address.en import Provider as Countries
        from faker.providers.address.en_IN import Provider as Cities
        from faker.providers.address.en_US import Provider as States
        from faker.providers.person.en_GB import Provider as British
        from faker.providers.person.en_IN import Provider as Indian
        from faker.providers.person.en_US import Provider as American

        people = (American, British, Indian)
        self.given = sorted({name for one in people for name in one.first_names})
        self.family = sorted({name for one in people for name in one.last_names})
        self.places = sorted({*States.states, *Countries.countries, *Cities.cities})

    def words(self) -> list[str]:
        """Every word of every name: what a tokenizer should know."""
        return [word for names in (self.given, self.family, self.places) for name in names for word in name.split()]

    def draw(self, kind: Literal["person", "place"], rng: np.random.Generator) -> list[str]:
        """The words of one name."""
        if kind == "place":
            words = self.places[int(rng.integers(len(self.places)))].split()
        else:
            given = self.given[int(rng.integers(len(self.given)))]
            family = self.family[int(rng.integers(len(self.family)))]
            called = rng.random()
            both = [given, family] if called < GIVEN_ONLY + GIVEN_AND_FAMILY else [family]
            words = [given] if called < GIVEN_ONLY else both
        written = rng.random()
        if written < LOWER:
            return [word.lower() for word in words]
        return [word.upper() for word in words] if written < LOWER + UPPER else words
