"""Short paragraphs that define WordNet synsets, with question/answer pairs for their sentences.

`tiny_corpus.py` uses them to train the tiny base to write pairs and answer questions, and `build_tiny_base.py` for
paragraphs about held-out synsets.
"""

from __future__ import annotations

import random
import re

from tiny_wordnet import Synset

Pair = tuple[str, str]
UNITS = ["days", "hours", "minutes", "years", "grams", "metres"]
# A WordNet relation, sentences that state it, and questions for it. {S}: the subject with its article, {be}: its verb,
# {n}: the name alone, {x}: the other thing.
RELATIONS = [
    (
        "synonym",
        ["Another name for {n} is {x}", "{S} {be} also called {x}"],
        ["What is another name for {n}?", "What {be} {S} also called?"],
    ),
    (
        "hypernym",
        ["{S} {be} a kind of {x}", "{S} belongs to the group of {x}"],
        ["What {be} {S} a kind of?", "To which group does {n} belong?"],
    ),
    (
        "hyponym",
        ["One example of {n} is {x}", "{x} is an example of {n}"],
        ["What is an example of {n}?", "Name one example of {n}."],
    ),
    ("part", ["{S} has a part called {x}"], ["Which part does {S} have?", "What is a part of {n}?"]),
    ("whole", ["{S} {be} a part of {x}"], ["What {be} {S} a part of?"]),
]
ABOUT = ["What does the text say about {x}?", "What is said about {x}?", "What do you learn about {x}?"]
SMALL = {
    "a", "an", "the", "of", "in", "on", "at", "to", "by", "for", "with", "from", "and", "or", "is", "was", "are",
    "were", "he", "she", "they", "it", "his", "her", "their", "its", "that", "this", "had", "has", "have", "be", "as",
    "been",
}  # fmt: skip
JOINTS = {
    "that": "What does {S} do?",
    "which": "What does {S} do?",
    "who": "What does {S} do?",
    "used": "How {be} {S} used?",
    "made": "How {be} {S} made?",
    "in": "Where {be} {S} found?",
    "on": "Where {be} {S} found?",
    "where": "What happens at {S}?",
    "for": "What {be} {S} for?",
    "by": "By what {be} {S} known?",
    "with": "What does {S} have?",
}


def with_article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def sentence(text: str) -> str:
    """`text` with a capital first letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def definition_paragraph(rng: random.Random, synset: Synset) -> tuple[str, list[Pair]]:
    """Two to four simple sentences about one synset, and their pairs; one sentence is the definition."""
    name, gloss = synset.words[0], synset.gloss
    proper = name[0].isupper()
    subject = name if proper or name.endswith("s") or rng.random() < 0.3 else with_article(name)
    be = "are" if name.endswith("s") and not proper and not gloss.startswith(("a ", "an ", "the ")) else "is"

    def fill(forms: list[str], x: str = "") -> str:
        form = forms[0] if len(forms) == 1 else rng.choice(forms)
        return form.format(S=subject, be=be, n=name, x=x)

    whats = rng.sample(["What {be} {S}?", "What {be} {S}?", "What does {n} mean?", "How is {n} defined?"], 2)
    definition = [(fill(whats[:1]), gloss)]
    split = re.match(rf"(.{{6,60}}?) ({'|'.join(JOINTS)}) (.{{6,}})", gloss)
    if split:
        kind, joint, rest = split.groups()
        definition.append((fill(["What kind of thing {be} {S}?", "What sort of thing {be} {n}?"]), kind))
        answer = rest if joint in ("that", "which", "who", "where") else f"{joint} {rest}"
        definition.append((fill([JOINTS[joint]]), answer))
    elif whats[0] != whats[1]:
        definition.append((fill(whats[1:]), gloss))
    facts = [(f"{subject} {rng.choice([be, be, be, 'means'])} {gloss}", definition)]
    related = {"synonym": synset.words[1:2], **synset.related}
    for relation, statements, questions in RELATIONS:
        if others := related.get(relation):
            x = others[0] if relation in ("synonym", "hypernym") else rng.choice(others)
            facts.append((fill(statements, x), [(fill(questions, x), x)]))
    number, unit = rng.randint(2, 60), rng.choice(UNITS)
    amount = f"{number} {unit}"
    needs = fill(["{S} needs about {x}", "It takes {x} to make {n}", "{n} lasts {x}"], amount)
    facts.append((needs, [(f"How many {unit} does {subject} need?", amount)]))
    chosen = [facts[0], *rng.sample(facts[1:], min(len(facts) - 1, rng.randint(1, 3)))]
    if rng.random() < 0.2:
        rng.shuffle(chosen)
    return " ".join(sentence(text) for text, _ in chosen), [pair for _, pairs in chosen for pair in pairs]


def sentence_paragraph(
    rng: random.Random, sentences: list[str], synsets: list[Synset], nouns: set[str]
) -> tuple[str, list[Pair]]:
    """Two to six unrelated sentences, sometimes more, and their pairs in the same order.

    For a definition, the question asks for it. For another sentence, it repeats the sentence with "what" in place of a
    noun phrase, or asks what the text says about that phrase.
    """
    pairs: list[Pair] = []
    chosen = []
    for _ in range(rng.randint(2, 6) if rng.random() < 0.85 else rng.randint(7, 12)):
        if rng.random() < 0.3:
            synset = rng.choice(synsets)
            name = synset.words[0] if synset.words[0][0].isupper() else with_article(synset.words[0])
            chosen.append(sentence(f"{name} is {synset.gloss}"))
            pairs.append((f"What is {name}?", synset.gloss))
        else:
            chosen.append(sentence(rng.choice(sentences)))
            pairs += _sentence_pair(rng, chosen[-1][:-1].split(), nouns)
    return " ".join(chosen), pairs


def _sentence_pair(rng: random.Random, words: list[str], nouns: set[str]) -> list[Pair]:
    places = [i for i, word in enumerate(words) if len(word) > 3 and word.lower() in nouns]
    if not places:
        return []
    end = rng.choice(places)
    start = max(0, end - rng.choice([0, 0, 1, 2]))
    while start < end and (words[start].lower() in SMALL or not words[start].isalpha()):
        start += 1
    if {"what", "What", words[end]} & {*words[:start], *words[end + 1 :]}:
        return []
    phrase = " ".join(words[start : end + 1])
    if rng.random() < 0.3:
        return [(rng.choice(ABOUT).format(x=phrase), " ".join(words))]
    asked = " ".join([*words[:start], "what", *words[end + 1 :]])
    return [(asked[0].upper() + asked[1:] + "?", phrase)]
