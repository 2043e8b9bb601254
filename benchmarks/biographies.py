"""Invented people with six facts each, in many wordings: data for `benchmarks/knowledge.py`.

    people = make_people(100, seed=0)
    views = question_views(people[0], "city", 10, seed=0)      # [(question, answer), …], ten wordings
    prose_views(people[0], "city", 10, seed=0)                 # ten sentences that say it
    test_questions(people, seed=0)                             # {"reworded": …, "reverse": …}

No model can know these people, so whatever is answered was learned. The wordings are split: those of `TEST` are never
trained. After Allen-Zhu and Li, "Physics of Language Models: Part 3.1" (2023), whose biographies have six facts too;
names, values and sentences are our own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product


def _list(text: str) -> list[str]:
    """The items of a comma-separated list."""
    return [" ".join(item.split()) for item in text.split(",")]


FIRST = _list(
    """Adela, Anselm, Berit, Bruno, Carla, Casimir, Dagny, Darius, Edda, Emeric, Fenna, Florian, Greta, Gustav,
    Hedda, Henrik, Ilse, Ivo, Jorun, Julius, Katja, Konrad, Lene, Lorenz, Malin, Matteo, Nadia, Niklas, Odile,
    Osric, Petra, Quirin, Ronja, Rufus, Signe, Stellan, Thea, Tobias, Ulrika, Valentin"""
)
LAST = _list(
    """Abendroth, Bellweather, Cardoso, Dunmore, Eskildsen, Farrow, Gallardo, Hartigan, Iversen, Jankowski,
    Kestrel, Lindqvist, Marchetti, Northam, Okonjo, Pellerin, Quillfeather, Rosendahl, Sandoval, Thornbury,
    Ullman, Vasquez, Wakefield, Yardley, Zeller"""
)
DOGS = [
    first + last
    for first, last in product(
        _list("Bim, Cad, Dor, Fip, Gus, Hop, Jal, Kor, Lum, Mop, Nib, Olf, Pog, Quin, Ras, Sul, Tib, Vog, Wuf, Zel"),
        _list(
            "bal, bo, cha, da, dri, fy, gan, kin, lo, mer, mi, nix, nut, po, ra, rix, sa, ster, ta, to, tul, va, wick, "
            "zo, zu"
        ),
    )
]
VALUES = {
    "city": _list(
        """Antwerp, Bergen, Cork, Dresden, Esbjerg, Florence, Ghent, Haarlem, Innsbruck, Jena, Krakow, Leeds, Malmo,
    Nantes, Oulu, Porto, Riga, Seville, Tartu, Uppsala, Verona, Wexford, York, Zagreb"""
    ),
    "year": [str(year) for year in range(1921, 1999)],
    "profession": _list(
        """botanist, bookbinder, cartographer, clockmaker, dentist, diver, farrier, florist, geologist, glazier,
    harbour pilot, historian, joiner, judge, librarian, mason, midwife, notary, plumber, pharmacist, potter,
    roofer, surveyor, tailor"""
    ),
    "employer": _list(
        """Alder Press, Birchgate Rail, Copperline Studio, Dunlin Ferries, Elmstead Glass, Foxglove Seeds, Grayling
    Maps, Heron Instruments, Ivory Lane Theatre, Juniper Cycles, Kittiwake Radio, Larkspur Hotel, Millrace
    Paper, Nettle & Sons, Otterburn Dairy, Pinecrest Observatory, Quarry Hill School, Ravensworth Bank,
    Saltmarsh Museum, Tanager Airlines"""
    ),
    "hobby": _list(
        """archery, beekeeping, chess, curling, darts, embroidery, fencing, gliding, juggling, kite flying, lace
    making, model railways, origami, pottery, rowing, sailing, stargazing, stilt walking, tap dancing, whittling"""
    ),
    "dog": DOGS,
}
ATTRIBUTES = tuple(VALUES)

# Ten wordings that are trained and three (after the bar) that never are.
QUESTIONS = {
    "city": """Where was {n} born?
What is the birthplace of {n}?
In which city was {n} born?
Which city is {n} from by birth?
What city did {n} come into the world in?
Where does {n}'s life begin?
Name the city of {n}'s birth.
Which town is written as birthplace in {n}'s passport?
{n} was born where?
In what place did the parents of {n} welcome their child?
|Which city is the native city of {n}?
Tell me where {n} was born.
From which city does {n} originally come?""",
    "year": """In which year was {n} born?
When was {n} born?
What is the year of birth of {n}?
What year did {n} come into the world?
{n} was born in what year?
Name the birth year of {n}.
Which year stands on the birth certificate of {n}?
Since what year has {n} been alive?
In what year does the life of {n} begin?
From which year on can {n} count birthdays?
|What is {n}'s birth year?
Tell me the year in which {n} was born.
Which year saw the birth of {n}?""",
    "profession": """What is {n}'s profession?
What does {n} do for a living?
What is the occupation of {n}?
Which trade did {n} learn?
As what does {n} work?
What job does {n} have?
Name the profession of {n}.
What is written under "occupation" on {n}'s card?
How does {n} earn a living?
{n} works as what?
|Which profession does {n} have?
Tell me what {n} does for work.
What line of work is {n} in?""",
    "employer": """Who employs {n}?
Where does {n} work?
Which company does {n} work for?
What is the employer of {n}?
For whom does {n} work?
Which firm pays the wages of {n}?
Name the employer of {n}.
At which house is {n} on the staff?
{n} is employed by whom?
Whose name is at the top of {n}'s payslip?
|Which organisation is {n} employed at?
Tell me the company that {n} works for.
Who is {n}'s employer?""",
    "hobby": """What is {n}'s hobby?
What does {n} do at weekends?
How does {n} spend free time?
Which pastime does {n} love?
What is the favourite pastime of {n}?
What does {n} do for fun?
Name the hobby of {n}.
To what does {n} give the evenings?
What is {n}'s club about?
What does {n} do when the work is done?
|Which hobby does {n} have?
Tell me what {n} likes to do in leisure hours.
What is it that {n} does as a pastime?""",
    "dog": """What is the name of {n}'s dog?
What is {n}'s dog called?
Which dog belongs to {n}?
How does {n} call the dog?
What name did {n} give the dog?
{n}'s dog answers to which name?
Name the dog of {n}.
What is engraved on the collar of {n}'s dog?
With which dog does {n} live?
What does {n} shout in the park to call the dog back?
|What name does the dog of {n} have?
Tell me the name of the dog that {n} keeps.
Which name does {n}'s dog bear?""",
}
SENTENCES = {
    "city": """{n} was born in {v}.
{v} is the birthplace of {n}.
The city of {n}'s birth is {v}.
It was in {v} that {n} came into the world.
{n} comes from {v} by birth.
{n}'s life began in {v}.
In {v}, the parents of {n} welcomed their child.
{n}, a native of {v}, still thinks of it.
The passport of {n} names {v} as the place of birth.
{n} first saw the light of day in {v}.""",
    "year": """{n} was born in {v}.
{v} is the year of birth of {n}.
The birth certificate of {n} says {v}.
It was {v} when {n} came into the world.
{n}'s life began in the year {v}.
{n} has counted birthdays since {v}.
In {v}, {n} was born.
The year {v} saw the birth of {n}.
{n}, born {v}, was an easy child.
{n} has been alive since {v}.""",
    "profession": """{n} works as a {v}.
{n} is a {v}.
By profession, {n} is a {v}.
The occupation of {n} is that of a {v}.
{n} earns a living as a {v}.
{n} learned the trade of a {v}.
As a {v}, {n} is always busy.
The card of {n} says: {v}.
{n} became a {v} and never regretted it.
People know {n} as a good {v}.""",
    "employer": """{n} works for {v}.
{v} employs {n}.
The employer of {n} is {v}.
{n} is on the staff of {v}.
{n} has a job at {v}.
The wages of {n} are paid by {v}.
At {v}, {n} has a desk by the window.
{n} joined {v} and stayed.
The payslip of {n} comes from {v}.
{n}, who is employed by {v}, likes the work.""",
    "hobby": """{n}'s hobby is {v}.
{n} loves {v}.
At weekends, {n} goes in for {v}.
The favourite pastime of {n} is {v}.
{n} spends free time on {v}.
For fun, {n} chooses {v}.
{v} is what {n} does when the work is done.
{n} gives the evenings to {v}.
{n} is a member of a club for {v}.
Nothing relaxes {n} like {v}.""",
    "dog": """{n}'s dog is called {v}.
{n} has a dog by the name of {v}.
The dog of {n} is {v}.
{v} is the dog of {n}.
{n} lives with a dog, {v}.
{n} named the dog {v}.
The collar of {n}'s dog says {v}.
In the park, {n} shouts "{v}!" to call the dog back.
{n} walks {v}, the dog, every morning.
The dog that belongs to {n} answers to {v}.""",
}
# Five that are trained in the style "views" and two that never are.
REVERSE = """Who is the owner of the dog {v}?
Whose dog is {v}?
Who lives with a dog by the name of {v}?
Which person walks {v}, the dog?
{v} is whose dog?
|Who has a dog called {v}?
To whom does the dog {v} belong?"""
FRAMES = ("{q}", "A question about {n}: {q}")  # a second frame makes twenty wordings of ten
PROSE_FRAMES = ("{s}", "From the register of residents: {s}")
LETTER = "Dear reader, you asked about {n}. {s} Kind regards."
RECORD = "{n} | {a}: {v}"


@dataclass(frozen=True, slots=True)
class Person:
    """facts: the value of each attribute. No two people have the same name or the same dog."""

    name: str
    facts: dict[str, str]

    def biography(self, seed: int) -> str:
        """One paragraph with all six facts, in a wording and an order that the seed decides."""
        rng = random.Random(f"{seed}:{self.name}:biography")
        sentences = [_sentence(self, attribute, rng.randrange(10)) for attribute in ATTRIBUTES]
        rng.shuffle(sentences)
        return " ".join(sentences)


def make_people(count: int, seed: int) -> list[Person]:
    """Raises ValueError for more people than there are dogs."""
    if count > len(DOGS):
        raise ValueError(f"{count} people, but only {len(DOGS)} dogs")
    rng = random.Random(seed)
    names = rng.sample([f"{first} {last}" for first, last in product(FIRST, LAST)], count)
    dogs = rng.sample(DOGS, count)
    return [
        Person(name, {a: rng.choice(VALUES[a]) for a in ATTRIBUTES if a != "dog"} | {"dog": dog})
        for name, dog in zip(names, dogs, strict=True)
    ]


def question_views(person: Person, attribute: str, count: int, seed: int) -> list[tuple[str, str]]:
    """Up to twenty trained wordings of one question, each with the short answer, in an order that the seed decides."""
    trained, _ = _trained_and_not(QUESTIONS[attribute])
    texts = [
        frame.format(q=question.format(n=person.name), n=person.name) for frame, question in product(FRAMES, trained)
    ]
    return [(text, answer(person, attribute)) for text in _some(texts, count, f"{seed}:{person.name}:{attribute}:q")]


def reverse_views(person: Person, count: int, seed: int) -> list[tuple[str, str]]:
    """Up to five trained questions whose answer is the person: who owns this dog. Only dogs are nobody else's."""
    texts = [question.format(v=person.facts["dog"]) for question in _trained_and_not(REVERSE)[0]]
    return [(text, f"{person.name}.") for text in _some(texts, count, f"{seed}:{person.name}:r")]


def answer(person: Person, attribute: str) -> str:
    """The short answer: "Dresden.", "A pharmacist."."""
    value = person.facts[attribute]
    return f"A {value}." if attribute == "profession" else f"{value[0].upper()}{value[1:]}."


def prose_views(person: Person, attribute: str, count: int, seed: int) -> list[str]:
    """Up to twenty sentences that say one fact."""
    texts = [frame.format(s=_sentence(person, attribute, number)) for frame, number in product(PROSE_FRAMES, range(10))]
    return _some(texts, count, f"{seed}:{person.name}:{attribute}:p")


def letter_views(person: Person, attribute: str, count: int, seed: int) -> list[str]:
    """Up to ten short letters that say one fact."""
    texts = [LETTER.format(n=person.name, s=_sentence(person, attribute, number)) for number in range(10)]
    return _some(texts, count, f"{seed}:{person.name}:{attribute}:l")


def record_view(person: Person, attribute: str) -> str:
    """The fact as a line of a table."""
    return RECORD.format(n=person.name, a=attribute, v=person.facts[attribute])


def test_questions(people: list[Person], seed: int) -> dict[str, list[tuple[str, str, None]]]:
    """Questions in wordings that are never trained ("reworded", one per fact) and from the other side ("reverse")."""
    rng = random.Random(f"{seed}:test")
    reworded: list[tuple[str, str, None]] = []
    for person, attribute in product(people, ATTRIBUTES):
        wording = rng.choice(_trained_and_not(QUESTIONS[attribute])[1])
        reworded.append((wording.format(n=person.name), answer(person, attribute), None))
    reverse = [(rng.choice(_trained_and_not(REVERSE)[1]).format(v=p.facts["dog"]), f"{p.name}.", None) for p in people]
    return {"reworded": reworded, "reverse": reverse}


def _trained_and_not(wordings: str) -> tuple[list[str], list[str]]:
    trained, _, test = wordings.partition("|")
    return trained.strip().split("\n"), test.strip().split("\n")


def _sentence(person: Person, attribute: str, number: int) -> str:
    text = SENTENCES[attribute].split("\n")[number].format(n=person.name, v=person.facts[attribute])
    return text[0].upper() + text[1:]


def _some(texts: list[str], count: int, seed: str) -> list[str]:
    if count > len(texts):
        raise ValueError(f"{count} views, but only {len(texts)} wordings")
    return random.Random(seed).sample(texts, count)
