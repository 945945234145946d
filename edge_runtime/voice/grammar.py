"""What may be said: sentence templates in Home Assistant's notation, a line each.

    # a comment
    opposites: on, off                 words that must never be taken for each other
    spelling: metres, meters           the first is the sentence's; the others may be heard in its place
    <area> = (kitchen|living room)     a rule, by which templates are shorter
    turn (on|off) [all] the <area> lights
    in {10..90,10} metres turn (left|right)

Templates are parsed by hassil (https://github.com/OHF-Voice/hassil): `(a|b)`, `[optional]`, `(any; order)`, `<rule>`;
ranges of numbers, `{first..last,step}`, are written out here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product
from typing import Any

from msgspec import Struct

from edge_runtime.errors import UserError

GRAMMAR = "grammar.txt"
"""The bundle's file that holds one."""
MAX_BYTES = 1 << 20
MAX_LINE = 2000
MAX_SENTENCES = 5000
_TOO_MANY = f"more than {MAX_SENTENCES} sentences; take coarser steps or fewer names"
MAX_FORMS = 32
"""Ways to spell one sentence that are listened for."""
MAX_DEPTH = 16
_RULE = re.compile(r"<(\w+)>\s*=\s*(.+)")
_WORDS = re.compile(r"(opposites|spelling):(.+)")
_RANGE = re.compile(r"\{(\d{1,4})\.\.(\d{1,4})(?:,(\d{1,4}))?\}")
_SPEAKABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,.'?!-]*")
_PUNCTUATION = re.compile(r"[,.?!;:]+(?=\s|$)")
_BEFORE_PUNCTUATION = re.compile(r"\s+([,.?!;:])")


class GrammarError(UserError):
    """A grammar cannot be meant."""


class Grammar(Struct, frozen=True):
    """The sentences that may be heard."""

    sentences: tuple[str, ...]
    """Each once, as the text model is given it."""
    opposites: tuple[tuple[str, ...], ...] = ()
    """Groups of words, lower case, that must not be taken for each other."""
    spellings: tuple[tuple[str, ...], ...] = ()
    """Words, and how else they may be written by who hears them."""


def parse(text: str, where: str) -> Grammar:
    """The grammar that a file's `text` means; `where` names it. Raises GrammarError that names the line."""
    if len(text) > MAX_BYTES:
        raise GrammarError(f"grammar {where}: more than {MAX_BYTES} characters; leave out what nobody says")
    lines = _Lines()
    sentences: dict[str, None] = {}
    number = 0
    try:
        for number, line in enumerate(text.splitlines(), 1):
            lines.take(number, line.partition("#")[0].strip())
        for number, template in lines.templates:  # noqa: B007  # told below
            sentences |= dict.fromkeys(_expand(template, lines.rules))
            if len(sentences) > MAX_SENTENCES:
                raise ValueError(_TOO_MANY)
    except ValueError as error:
        raise GrammarError(f"grammar {where}: line {number}: {error}") from None
    if not sentences:
        raise GrammarError(f"grammar {where}: has no sentence; write one a line")
    opposites = tuple(tuple(word.lower() for word in group) for group in lines.groups["opposites"])
    return Grammar(tuple(sentences), opposites, tuple(lines.groups["spelling"]))


class _Lines:
    """What the lines of a grammar say."""

    def __init__(self) -> None:
        self.rules: dict[str, Any] = {}
        self.templates: list[tuple[int, Any]] = []
        self.groups: dict[str, list[tuple[str, ...]]] = {"opposites": [], "spelling": []}

    def take(self, number: int, line: str) -> None:
        """One of them. Raises ValueError."""
        if not line:
            return
        if len(line) > MAX_LINE:
            raise ValueError(f"more than {MAX_LINE} characters in one line")
        if words := _WORDS.fullmatch(line):
            group = tuple(word.strip() for word in words[2].split(","))
            if len(group) < 2 or not all(re.fullmatch(r"[\w'-]+", word) for word in group):
                raise ValueError(f"{words[1]} needs two words or more, parted by commas")
            self.groups[words[1]].append(group)
        elif rule := _RULE.fullmatch(line):
            if rule[1] in self.rules:
                raise ValueError(f"there are two rules <{rule[1]}>")
            self.rules[rule[1]] = _template(rule[2])
        else:
            self.templates.append((number, _template(line)))


def parse_bytes(data: bytes, where: str) -> Grammar:
    """As `parse`, of a file's bytes."""
    try:
        return parse(data.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        raise GrammarError(f"grammar {where}: is not UTF-8 (byte {error.start})") from None


def write(sentences: Iterable[str], opposites: Iterable[Iterable[str]] = ()) -> str:
    """A grammar's text with these sentences, each once whatever its capitals; those that nobody can say are left out.

    Lines of `opposites` are written for groups of which every word is said.
    """
    kept: dict[str, str] = {}
    for sentence in sentences:
        plain = " ".join(sentence.split())
        if _SPEAKABLE.fullmatch(plain):
            kept.setdefault(plain.lower(), plain)
    said = {word for sentence in kept for word in _PUNCTUATION.sub("", sentence).split()}
    lines = [f"opposites: {', '.join(group)}" for group in map(list, opposites) if len(group) > 1 and said >= {*group}]
    return "\n".join([*lines, *kept.values()]) + "\n"


def spoken_forms(sentence: str, spellings: Iterable[tuple[str, ...]]) -> list[str]:
    """How whoever hears `sentence` may write it, without punctuation: numbers as digits and as words, other spellings,
    its first letter small and large. At most MAX_FORMS."""
    others = {group[0].lower(): group for group in spellings}
    words = _PUNCTUATION.sub("", sentence).split()
    choices: list[tuple[str, ...]] = []
    for word in words:
        if word.isdecimal() and int(word) < 10_000:
            choices.append((word, number_words(int(word))))
        else:
            choices.append((word, *others.get(word.lower(), (word,))[1:]))
    forms: dict[str, None] = {}
    for chosen in islice(product(*choices), MAX_FORMS // 2):
        form = " ".join(chosen)
        forms[form[:1].upper() + form[1:]] = None
        forms[form[:1].lower() + form[1:]] = None
    return list(forms)


def plain(sentence: str) -> str:
    """`sentence` without capitals and punctuation: what two ways to write the same have in common."""
    return " ".join(_PUNCTUATION.sub("", sentence).lower().split())


_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def number_words(number: int) -> str:
    """`number`, 0 to 9999, in English."""
    if number < 20:
        return (_ONES + _TEENS)[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[rest]}" if rest else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    head, rest = divmod(number, size)
    return f"{_ONES[head]} {name}" + (f" {number_words(rest)}" if rest else "")


def _template(text: str) -> Any:
    """The parsed template. Raises ValueError."""
    try:
        from hassil.parse_expression import parse_sentence
    except ImportError:
        raise GrammarError("grammars need hassil; pip install 'edge-runtime[voice]'") from None
    text = _RANGE.sub(_range, text)
    try:
        return parse_sentence(text).expression
    except Exception as error:  # its parser raises what it likes
        raise ValueError(f"is no template ({' '.join(str(error).split())[:200] or type(error).__name__})") from None


def _range(found: re.Match[str]) -> str:
    first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
    if step < 1 or last < first:
        raise ValueError(f"{found[0]} has no number in it")
    return f"({'|'.join(map(str, range(first, last + 1, step)))})"


def _expand(expression: Any, rules: Mapping[str, Any]) -> Iterator[str]:
    """Its sentences. Raises ValueError, before anything is made, where there are too many."""
    from hassil.expression import Sentence
    from hassil.sample import sample_expression

    count = _count(expression, rules, 0)
    if count > MAX_SENTENCES:
        raise ValueError(_TOO_MANY)
    known = {name: Sentence(rule) for name, rule in rules.items()}
    for sentence in sample_expression(expression, {}, known):
        if tidy := _BEFORE_PUNCTUATION.sub(r"\1", " ".join(sentence.split())):
            yield tidy


def _count(expression: Any, rules: Mapping[str, Any], depth: int) -> int:
    """How many sentences it stands for, at least; more than MAX_SENTENCES is as good as any. Raises ValueError."""
    from hassil.expression import Alternative, Group, ListReference, Permutation, RuleReference

    if depth > MAX_DEPTH:
        raise ValueError("rules that refer to each other, or brackets too deep")
    if isinstance(expression, RuleReference):
        if expression.rule_name not in rules:
            raise ValueError(f"there is no rule <{expression.rule_name}>")
        return _count(rules[expression.rule_name], rules, depth + 1)
    if isinstance(expression, ListReference):
        raise ValueError(
            f"there are no lists, such as {{{expression.list_name}}}; write a rule <{expression.list_name}>"
        )
    if not isinstance(expression, Group):
        return 1
    counts = [_count(item, rules, depth + 1) for item in expression.items]
    if isinstance(expression, Alternative):
        total = sum(counts)
    else:
        total = math.prod(counts)
        if isinstance(expression, Permutation):
            total *= math.factorial(min(len(counts), 20))
    return min(total, MAX_SENTENCES + 1)
