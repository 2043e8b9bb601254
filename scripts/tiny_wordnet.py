"""Read WordNet 3.0 for the tiny base: synsets with glosses and relations, and the word list.

Used by `build_tiny_base.py`. The data files come from Debian's package `wordnet-base`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

WORDNET = Path("/usr/share/wordnet")
# Lexicographer files of concrete things, whose glosses are the most distinctive (see lexnames(5WN)).
CONCRETE = {5, 6, 8, 13, 15, 17, 18, 20, 27}
RELATIONS = {"@": "hypernym", "~": "hyponym", "%p": "part", "#p": "whole"}


@dataclass(slots=True)
class Synset:
    """One meaning: its words by frequency, its definition, example sentences, and related words by relation."""

    key: str
    lexname: int
    words: list[str]
    gloss: str
    examples: list[str]
    related: dict[str, list[str]] = field(default_factory=dict)


def clean_gloss(text: str) -> str:
    """The first definition on one line, without parentheses, with plain quotes."""
    text = re.sub(r"\([^()]*\)", " ", text.split(";")[0].split('"')[0])
    return re.sub(r"\s+([,.:])", r"\1", " ".join(text.replace("`", "'").split())).strip(" ,:.-")


def _synset(line: str) -> tuple[Synset, list[tuple[str, str]]]:
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    count = int(fields[3], 16)
    words = [re.sub(r"\([a-z]+\)$", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * count : 2]]
    at = 4 + 2 * count
    pointers = [(fields[i], fields[i + 1] + fields[i + 2]) for i in range(at + 1, at + 1 + 4 * int(fields[at]), 4)]
    examples = [e for e in re.findall(r'"([^"]{8,120})"', gloss) if e.isascii()]
    return Synset(fields[0] + fields[2], int(fields[1]), words, clean_gloss(gloss), examples), pointers


def read_synsets(folder: Path = WORDNET) -> dict[str, Synset]:
    """All synsets by key (offset + part of speech), in file order; relations hold the first word of each synset."""
    synsets: dict[str, Synset] = {}
    pointers: dict[str, list[tuple[str, str]]] = {}
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text("latin-1").splitlines():
            if not line.startswith(" "):
                synset, links = _synset(line)
                synset.key = synset.key.replace("s", "a")
                synsets[synset.key] = synset
                pointers[synset.key] = links
    for key, links in pointers.items():
        for symbol, target in links:
            name = RELATIONS.get(symbol)
            if name and target in synsets:
                synsets[key].related.setdefault(name, []).append(synsets[target].words[0])
    return synsets


def noun_senses(folder: Path = WORDNET) -> dict[str, list[str]]:
    """For each noun the keys of its synsets, the most frequent first."""
    senses = {}
    for line in (folder / "index.noun").read_text("latin-1").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            senses[fields[0].replace("_", " ")] = [f + "n" for f in fields[-int(fields[2]) :]]
    return senses


def fits(noun: str, gloss: str) -> bool:
    """Whether a gloss has 4 to 14 plain words and doesn't give the noun away."""
    words = re.findall(r"[a-z']+", gloss.lower())
    stem = noun[: max(4, len(noun) - 2)]
    return 4 <= len(words) <= 14 and gloss.isascii() and not any(w.startswith(stem) or w == noun for w in words)


def decent(text: str, bad: frozenset[str]) -> bool:
    """Whether `text` contains no bad words."""
    return bad.isdisjoint(re.findall(r"[a-z]+", text.lower()))


def held_out(key: str, share: float = 0.05) -> bool:
    """Whether a synset is held out of training. Decided by a hash of its key, so it never changes."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64 < share


def choose_words(
    nouns: list[str], synsets: dict[str, Synset], senses: dict[str, list[str]], count: int
) -> dict[str, str]:
    """Choose `count` nouns for the base, each with the gloss of its most frequent meaning.

    Takes concrete nouns of 3 to 9 letters by their number of tagged uses, if the gloss differs from all glosses taken
    before (tf-idf cosine below 0.5).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    used: dict[str, int] = {}
    for line in (WORDNET / "cntlist.rev").read_text("latin-1").splitlines():
        sense_key, _, tagged = line.split()
        lemma, _, rest = sense_key.partition("%")
        if rest.startswith("1:"):
            used[lemma] = used.get(lemma, 0) + int(tagged)
    pool = []
    for noun in nouns:
        synset = (
            synsets[senses[noun][0]]
            if noun in senses and 3 <= len(noun) <= 9 and noun.isalpha() and noun.islower()
            else None
        )
        if synset and synset.lexname in CONCRETE and noun in synset.words and fits(noun, synset.gloss):
            pool.append((-used.get(noun, 0), noun, synset.gloss))
    pool.sort()
    vectors = TfidfVectorizer(token_pattern=r"[a-z]+").fit_transform([gloss for _, _, gloss in pool])
    taken: list[int] = []
    for i in range(len(pool)):
        if len(taken) == count:
            break
        if not taken or (vectors[taken] @ vectors[i].T).max() < 0.5:
            taken.append(i)
    return {pool[i][1]: pool[i][2] for i in sorted(taken, key=lambda i: pool[i][1])}
