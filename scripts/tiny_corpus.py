"""Training documents for the embedded base model: an endless, seeded stream, with one function per document family.

Used by `scripts/build_tiny_base.py`. A document is a text with silent ranges, which have no loss: random list items and
facts can't be predicted, so their loss would be noise. No document has the form of an MCSB question: a description,
lettered options, and a label as the answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tiny_paragraphs import Pair, definition_paragraph, sentence, sentence_paragraph, with_article
from tiny_wordnet import Synset

from dlm_trl.synth import prompts as synth
from dlm_trl.tasks import prompts as tasks

BOS, EOS, PAD, START = "<|endoftext|>", "<|im_end|>", "<|pad|>", "<|im_start|>"
# Adjectives that aren't in the noun lists, so they can be single tokens.
VALUES = [
    "new", "old", "big", "small", "tall", "thin", "thick", "pale", "bright", "dry", "wet", "hot", "warm", "soft",
    "hard", "dirty", "slow", "quick", "loud", "sharp", "rich", "strong", "weak", "smooth",
]  # fmt: skip
# The weight of a token with a loss. Look-ups have few of these among many silent tokens.
WEIGHTS = {
    "echo": 4.0, "drill": 4.0, "lookup": 4.0, "facts": 4.0, "quiz": 4.0, "matching": 4.0, "choice": 2.0, "riddle": 2.0,
    "guess": 5.0,
}  # fmt: skip
# Replacements that keep the meaning of a gloss.
SYNONYMS = {
    "small": "little", "large": "big", "used": "made use of", "especially": "mostly", "usually": "often",
    "person": "human", "various": "many", "several": "some", "consisting": "made up", "having": "with",
    "that": "which", "device": "tool", "equipment": "gear", "building": "house", "consists": "is made up",
    "vessel": "container", "area": "region", "typically": "usually", "designed": "made", "intended": "meant",
    "numerous": "many", "relatively": "rather", "resembling": "like", "containing": "with", "piece": "bit",
    "structure": "construction",
}  # fmt: skip
FORWARD = ["{w}", "{w}", "{w}:", "{w} is", "Which KIND is {w}?", "Which KIND is {w}? Answer:", "The KIND of {w} is"]
LABEL_ASKS = [
    "{kind}:", "Which {kind} is it?", "The {kind} of the word:", "Answer ({kind}):", "Label:", "Its label is",
    "Answer with {first} to {last}:",
]  # fmt: skip
BACKWARD = ["{l}", "{l}:", "Which word is {l}?", "Word {l}:"]
OPENERS = ["", "", "", "", "", "a name for ", "the word for ", "it is ", "this is ", "one kind of thing: "]


@dataclass(slots=True)
class Doc:
    """A text under construction, with its silent character ranges and the targets of the middle layer.

    halfway: by the position where an answer starts, the word that the middle layer should predict. That is the answer,
    or, if the description gives a word and the word gives the answer, that word.
    """

    text: str = ""
    silent: list[tuple[int, int]] = field(default_factory=list)
    halfway: dict[int, str] = field(default_factory=dict)
    weight: float = 1.0

    def add(self, text: str, loss: bool = True) -> Doc:
        if not loss:
            self.silent.append((len(self.text), len(self.text) + len(text)))
        self.text += text
        return self

    def answer(self, text: str, halfway: str = "") -> Doc:
        """Add a single-token answer; halfway: the target of the middle layer, by default the answer."""
        self.halfway[len(self.text)] = f" {halfway or text}"
        return self.add(f" {text}")


def paraphrase(rng: random.Random, gloss: str) -> str:
    """A gloss in slightly different words; one time in three unchanged."""
    if rng.random() < 0.35:
        return gloss
    words = gloss.split()
    if rng.random() < 0.5:
        words = [SYNONYMS[w] if w in SYNONYMS and rng.random() < 0.6 else w for w in words]
    if words[0] in ("a", "an", "the", "any", "one") and rng.random() < 0.4:
        words[0] = rng.choice(["any", "some", "one", "the"])
    if rng.random() < 0.25:
        for join in ("or", "and", "by", "with", "for", "that"):
            at = len(words) - 1 - words[::-1].index(join) if join in words else 0
            if at >= 5:
                words = words[:at]
                break
    return rng.choice(OPENERS) + " ".join(words)


class Corpus:
    """All document families, over `words` (single tokens) and `others`, both with glosses, and training synsets."""

    def __init__(self, words: dict[str, str], others: dict[str, str], synsets: list[Synset]) -> None:
        self.words, self.others, self.synsets = words, others, synsets
        self.nouns, self.other_nouns = sorted(words), sorted(others)
        self.definable = [
            s
            for s in synsets
            if s.key.endswith("n") and 3 <= len(s.gloss.split()) <= 18 and s.gloss.isascii() and s.words[0].isascii()
        ]
        self.glosses = {**others, **words}
        self.sentences = sorted({e for s in synsets for e in s.examples if 5 <= len(e.split()) <= 18})
        self.single_nouns = {w for s in synsets if s.key.endswith("n") for w in s.words if w.isalpha() and w.islower()}

    # --- words and their descriptions ---
    def pick(self, rng: random.Random, count: int, known: float = 0.85) -> list[str]:
        picked: list[str] = []
        while len(picked) < count:
            word = rng.choice(self.nouns if rng.random() < known else self.other_nouns)
            if word not in picked:
                picked.append(word)
        return picked

    def describe(self, rng: random.Random, word: str) -> str:
        return paraphrase(rng, self.glosses[word])

    def glossary(self, rng: random.Random) -> Doc:
        doc = Doc()
        head, tail = rng.choice([("Word", "Description")] * 4 + [("Word", "Meaning"), ("Noun", "Description")])
        gap = rng.choice(["\n\n", "\n\n", "\n"])
        for word in self.pick(rng, rng.randint(2, 8), 0.9):
            doc.add(f"{head}:").add(f" {word}", loss=False).add(f"\n{tail}: {self.describe(rng, word)}{gap}")
        return doc

    def riddle(self, rng: random.Random) -> Doc:
        doc = Doc()
        head, tail = rng.choice(
            [("Description", "Word"), ("Description", "Answer"), ("Meaning", "Word"), ("Description", "It is")]
        )
        for word in self.pick(rng, rng.randint(2, 5), 0.9):
            doc.add(f"{head}: {self.describe(rng, word)}", loss=False).add(f"\n{tail}:").answer(word).add("\n\n")
        return doc

    def choice(self, rng: random.Random) -> Doc:
        """Labelled options, answered with the word; sometimes followed by a question for its number."""
        doc = Doc()
        for _ in range(rng.randint(1, 2)):
            options = self.pick(rng, rng.randint(2, 7), 0.92)
            lettered = rng.random() < 0.4
            names = [chr(65 + i) if lettered else str(i + 1) for i in range(len(options))]
            word = rng.choice([o for o in options if o in self.words] or options)
            head = rng.choice(["Description", "Description", "Description", "Meaning"])
            doc.add(f"{head}: {self.describe(rng, word)}\n{listing(rng, options, names)}", loss=False)
            doc.add(rng.choice(["\nAnswer:", "\nWord:", "\nAnswer (one word):", "\nIt is:"])).answer(word)
            if lettered:
                doc.add("\n\n")
                continue
            if rng.random() < 0.6:
                doc.add(rng.choice(["\nNumber:", f"\nWhich number is {word}?", f"\nThe number of {word}:"]))
                doc.answer(str(options.index(word) + 1))
            for other in rng.sample(options, min(len(options), rng.randint(0, 2))):
                doc.add(f"\nWhich number is {other}?", loss=False).answer(str(options.index(other) + 1))
            doc.add("\n\n")
        return doc

    def quiz(self, rng: random.Random) -> Doc:
        """Labelled options, answered with the label: from description to word to label in one step."""
        doc = Doc()
        for _ in range(rng.randint(1, 3)):
            options = self.pick(rng, rng.randint(2, 7), 0.97)
            word = rng.choice([o for o in options if o in self.words] or [self.nouns[0]])
            options = options if word in options else [word, *options[1:]]
            names, kind = labels(rng, len(options))
            doc.add(f"Description: {self.describe(rng, word)}\n{listing(rng, options, names)}\n", loss=False)
            doc.add(rng.choice(LABEL_ASKS).format(kind=kind, first=names[0], last=names[-1]), loss=False)
            doc.answer(names[options.index(word)], halfway=word).add("\n\n")
        return doc

    def guess(self, rng: random.Random) -> Doc:
        """A quiz with the letters from A, answered at random, so that MCSB training has something left to teach.

        Without it, binding learned on K to Z generalises to A to E.
        """
        doc = Doc()
        for _ in range(rng.randint(1, 3)):
            options = self.pick(rng, rng.randint(3, 8), 0.97)
            names = [chr(65 + i) for i in range(len(options))]
            doc.add(f"Description: {self.describe(rng, options[0])}\n", loss=False)
            doc.add(f"{listing(rng, rng.sample(options, len(options)), names)}\n", loss=False)
            doc.add(rng.choice(LABEL_ASKS).format(kind="letter", first=names[0], last=names[-1]), loss=False)
            doc.add(f" {rng.choice(names)}").add("\n\n")
        return doc

    def matching(self, rng: random.Random) -> Doc:
        """A labelled list, then its words and descriptions in random order, each followed by its label."""
        doc = Doc()
        options = rng.sample(self.nouns, rng.randint(2, 6))
        names, kind = labels(rng, len(options))
        doc.add(listing(rng, options, names), loss=False)
        gap = rng.choice(["\n", "\n", "\nDescription: "])
        end = rng.choice(["", ":", f"\n{kind.capitalize()}:", "\nLabel:"])
        for i in rng.sample(range(len(options)), len(options)):
            if rng.random() < 0.25:
                doc.add(f"\n{options[i]}{end}", loss=False).answer(names[i])
            else:
                doc.add(f"{gap}{self.describe(rng, options[i])}{end}", loss=False)
                doc.answer(names[i], halfway=options[i])
        return doc

    # --- look-up in a list ---
    def echo(self, rng: random.Random) -> Doc:
        """The simplest look-up: five numbered words, then each word again, followed by its number."""
        doc = Doc()
        options = rng.sample(self.nouns, 5)
        doc.add(" ".join(f"{i + 1} {word}" for i, word in enumerate(options)) + "\n", loss=False)
        for i in rng.sample(range(5), 5):
            doc.add(f" {options[i]}", loss=False).answer(str(i + 1))
        return doc

    def drill(self, rng: random.Random) -> Doc:
        """Like `echo`, with lists of any length and format; each word is asked once."""
        doc = Doc()
        options = self.pick(rng, rng.randint(3, 8), 0.97)
        doc.add(listing(rng, options) + "\n", loss=False)
        gap = rng.choice([" ", "\n"])
        for i in rng.sample(range(len(options)), len(options)):
            doc.add(f"{gap}{options[i]}", loss=False).answer(str(i + 1))
        return doc

    def lookup(self, rng: random.Random) -> Doc:
        """An ordered list and questions for the label of a word, or the word of a label; each is asked at most once."""
        doc = Doc()
        options = self.pick(rng, rng.randint(3, 9), 0.9)
        names, kind = labels(rng, len(options))
        words_asked = rng.random() < 0.7
        if not words_asked and rng.random() < 0.2:
            names = [chr(65 + i) for i in range(len(options))]
        doc.add(listing(rng, options, names) + "\n", loss=False)
        by_word = rng.choice(FORWARD).replace("KIND", kind)
        by_label = rng.choice(BACKWARD)
        for i in rng.sample(range(len(options)), len(options)):
            lead = (by_word if words_asked else by_label).format(w=options[i], l=names[i])
            doc.add("\n" + lead, loss=False).answer(names[i] if words_asked else options[i])
        return doc

    def facts(self, rng: random.Random) -> Doc:
        """Things with one value each, asked by name or by description."""
        doc = Doc()
        things = self.pick(rng, rng.randint(2, 6), 0.95)
        values = rng.sample(VALUES, len(things))
        join = rng.choice([" is {}. ", ": {}\n", " = {}\n", " is {}\n"])
        doc.add(
            "".join(thing + join.format(value) for thing, value in zip(things, values, strict=True)).strip(), loss=False
        )
        for _ in range(rng.randint(3, 5)):
            i = rng.randrange(len(things))
            if rng.random() < 0.7:
                doc.add(f"\nDescription: {self.describe(rng, things[i])}", loss=False)
                doc.add(rng.choice(["\nIt is", "\nValue:"])).answer(values[i], halfway=things[i])
            else:
                doc.add(f"\n{things[i]}", loss=False).answer(values[i])
        return doc

    def letters(self, rng: random.Random) -> Doc:
        """Lettered lists without a question, to learn the order of the letters."""
        doc = Doc()
        options = self.pick(rng, rng.randint(3, 9))
        inline = rng.random() < 0.5
        for i, word in enumerate(options):
            doc.add(
                (("" if i == 0 else ", ") if inline else "\n" * (i > 0))
                + (" " if inline and i == 0 else "")
                + f"{chr(65 + i)})"
            )
            doc.add(f" {word}", loss=False)
        return doc

    # --- paragraphs, questions about them, and general text ---
    def paragraph(self, rng: random.Random) -> tuple[str, list[Pair]]:
        """Prose with at least one pair; the pairs are in the order of the prose."""
        while True:
            if rng.random() < 0.6:
                return definition_paragraph(rng, rng.choice(self.definable))
            prose, pairs = sentence_paragraph(rng, self.sentences, self.definable, self.single_nouns)
            if pairs:
                return prose, pairs

    def teacher(self, rng: random.Random) -> Doc:
        """A request for pairs, and the pairs in the order of the text, so that none is repeated."""
        prose, pairs = self.paragraph(rng)
        count = min(len(pairs), rng.choice([1, 2, 3, 3, 4]))
        pairs = [pairs[i] for i in sorted(rng.sample(range(len(pairs)), count))]
        if rng.random() < 0.6:
            strategy: synth.Strategy = rng.choice(["extraction", "extraction", "expansion"])
            asked = synth.pair_messages(prose, len(pairs), strategy)[0]["content"]
        else:
            asked = rng.choice(ASKS).format(n=len(pairs), prose=prose)
        reply = json.dumps([{"question": q, "answer": x} for q, x in pairs], ensure_ascii=False)
        return chat(asked, reply, loss_on_user=False)

    def reading(self, rng: random.Random) -> Doc:
        """A paragraph with an answer, to write the question; or with a question, to write the answer."""
        prose, pairs = self.paragraph(rng)
        question, answer = rng.choice(pairs)
        if rng.random() < 0.5:
            asked, reply = tasks.span_question_messages(prose, answer)[0]["content"], question
            if rng.random() < 0.4:
                asked = rng.choice(SPAN_ASKS).format(span=answer, prose=prose)
        else:
            asked, reply = tasks.span_check_messages(prose, question)[0]["content"], answer
            if rng.random() < 0.4:
                asked = rng.choice(READ_ASKS).format(question=question, prose=prose)
        return chat(asked, reply, loss_on_user=False)

    def closed_book(self, rng: random.Random) -> Doc:
        word = rng.choice(self.nouns)
        asked = rng.choice(["What is {}?", "What does {} mean?", "Describe {}.", "Explain the word {}."]).format(
            with_article(word) if rng.random() < 0.7 else word
        )
        return chat(asked, sentence(self.describe(rng, word)))

    def general(self, rng: random.Random) -> Doc:
        doc = Doc()
        for _ in range(rng.randint(2, 5)):
            synset = rng.choice(self.synsets)
            doc.add(sentence(f"{synset.words[0]}: {synset.gloss}") + " ")
            for example in synset.examples[:2]:
                doc.add(sentence(example) + " ")
        return doc

    # --- the stream ---
    def stream(self, seed: int, mixture: dict[str, float]) -> Iterator[Doc]:
        """Endless documents; mixture: the share of each family, in documents."""
        rng = random.Random(seed)
        names, shares = list(mixture), list(mixture.values())
        while True:
            name = rng.choices(names, shares)[0]
            doc: Doc = getattr(self, name)(rng)
            doc.weight = WEIGHTS.get(name, 1.0)
            doc.text = doc.text.rstrip()
            if not doc.text.endswith(EOS):
                doc.add(EOS)
            yield doc


ASKS = [
    "Write {n} question and answer pairs about this text as a JSON list.\n\n{prose}",
    "Text:\n{prose}\n\nMake {n} questions with their answers from the text. Reply as JSON with question and answer.",
    "Give me {n} pairs of question and answer on the text below, in JSON.\n\nText:\n{prose}",
]
SPAN_ASKS = [
    "Text:\n{prose}\n\nAnswer: {span}\n\nWrite the question.",
    "Which question about the text has the answer: {span}?\n\n{prose}",
]
READ_ASKS = ["Text:\n{prose}\n\nQuestion: {question}", "{question}\n\nText:\n{prose}"]


def labels(rng: random.Random, count: int) -> tuple[list[str], str]:
    """Consecutive labels and their kind: numbers, or letters from K.

    The letters of MCSB questions, A to J, label lists in other documents and appear in questions, but never in answers.
    """
    if rng.random() < 0.5:
        return [str(i + 1) for i in range(count)], "number"
    first = rng.randint(10, 26 - count)
    return [chr(65 + first + i) for i in range(count)], "letter"


def listing(rng: random.Random, options: list[str], names: list[str] | None = None) -> str:
    """`options` as a list in a random format, with these labels or numbers."""
    form = rng.choice(["{}) {}", "{}) {}", "{}) {}", "{}. {}", "{}: {}", "{} {}"])
    names = names or [str(i + 1) for i in range(len(options))]
    gap = rng.choice(["\n", "\n", "\n", ", ", " "])
    return gap.join(form.format(label, option) for label, option in zip(names, options, strict=True))


def chat(user: str, assistant: str, loss_on_user: bool = True) -> Doc:
    """One user turn and one assistant turn, in the format of the chat template."""
    return Doc().add(f"{START}user\n{user}{EOS}\n{START}assistant\n", loss_on_user).add(assistant + EOS)
