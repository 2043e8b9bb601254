"""What the pairs of a document ask about, which ones are gone after an edit, and runs that ask about the rest."""

import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_trl.asking.facts import facts
from dlm_trl.notes import parse, read
from dlm_trl.notes.errors import InstructionParseError
from dlm_trl.synth import SynthSettings, synthesize
from dlm_trl.synth.apply import apply, revert
from dlm_trl.synth.coverage import Coverage, coverage
from dlm_trl.synth.dry_run import estimate
from dlm_trl.synth.pairs import Candidate, QAPair
from dlm_trl.synth.plan import PlannedRequest, plan
from dlm_trl.synth.staging import applied, drop, stage, staged
from dlm_trl.teachers.load import UnloadedTeacher
from tests.synth.test_run import LAUNCH
from tests.synth.writer import HEAD, TOPICS, asked, listed, notes, prose
from tests.teachers.servers import App, Call

ROOT = Path(__file__).parents[2]
AT = "2026-04-24T10:18:42Z"
PLAIN = SynthSettings(teacher="openai:m", filter="dedup-only", ask="sentences")
UNCOVERED = SynthSettings(teacher="openai:m", filter="dedup-only", uncovered=True)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    async def ask(call: Call) -> str:
        return f"What is {about(call).split()[0]}?"

    with asked(App(reply=ask), monkeypatch) as running:
        yield running


def about(call: Call) -> str:
    """The sentence that a request is about."""
    text: str = call.body["messages"][0]["content"]
    return text.rpartition("Fact: ")[2].partition("\n")[0]


def found_in(path: Path) -> Coverage:
    document = read(path)
    return coverage(document, staged(document))


def asking(found: Coverage) -> dict[str, list[str]]:
    """For each sentence the kinds of the pairs that ask about it."""
    return {sentence.text: [pair.kind for pair in sentence.pairs] for sentence in found.sentences}


class TestCoverage:
    TEXT = (
        f"{HEAD}# Dew\n\nDew is water that\ncondenses overnight. It forms when the\nair is cool.\n\n"
        "::instruction::\n### Q\nWhat is dew?\n### A\nCondensed water.\n\n### Q\nWho am I?\n### A\nA gardener.\n"
        "::prose::\nFrost is frozen dew. Frost kills the young beans.\n"
    )

    def test_sentences_have_their_lines_and_pairs(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.dlm"
        path.write_text(self.TEXT)
        found = found_in(path)
        assert [(section.line, section.title) for section in found.sections] == [
            (6, "Dew"), (23, "Frost is frozen dew. Frost kills the…"),
        ]  # fmt: skip
        assert [(sentence.line, sentence.text) for sentence in found.sentences] == [
            (8, "Dew is water that condenses overnight."),
            (9, "It forms when the air is cool."),
            (23, "Frost is frozen dew."),
            (23, "Frost kills the young beans."),
        ]
        ((own,), *others) = (sentence.pairs for sentence in found.sentences)
        assert (own.kind, own.line, own.question) == ("own", 13, "What is dew?") and others == [(), (), ()]
        assert found.totals == (4, 1, 1, 0) and found.gone == ()

    def test_staged_and_applied_pairs_count(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.dlm"
        path.write_text(self.TEXT)
        frost = read(path).sections[2].section_id
        new = [("What is frost?", "Frozen dew."), ("What kills the beans?", "Frost.")]
        origin = ("extraction", "Frost", "ab" * 16, 0, "hf:x")
        stage(read(path), [Candidate(QAPair(*each), frost, *origin) for each in new], AT)
        apply(path, [staged(read(path))[0].section_id])
        found = found_in(path)
        assert found.totals == (4, 3, 1, 0)
        (in_file,), (in_staging,) = (sentence.pairs for sentence in found.sentences[2:])
        assert (in_file.kind, in_file.line is None, in_staging.line) == ("extraction", False, None)
        assert path.read_text().splitlines()[(in_file.line or 0) - 1 :][1] == "What is frost?"

    def test_a_sentence_that_occurs_twice_is_asked_about_once(self) -> None:
        text = "::prose::\nDew is water. Dew forms at night.\n" * 2
        found = coverage(parse(f"{HEAD}{text}::instruction::\n### Q\nWhen does dew form?\n### A\nAt night.\n"), [])
        assert found.totals == (2, 2, 2, 0) and [sentence.line for sentence in found.sentences] == [7, 9]

    @pytest.mark.parametrize(
        ("text", "question", "answer", "number"),
        [
            (
                "酵母はガスを作り、ガスが生地を\n膨らませる。細菌は酸を作り、酸がパンに酸味を与える。",
                "パンの酸味はどこから来ますか？",
                "細菌の酸から。",
                1,
            ),
            ("Die Hefe lockert\nden Teig. Große Öfen brauchen zum Heizen lange.", "Was lockert den Teig?", "Hefe.", 0),
            ("L’été, la pâte lève vite. Le sel ralentit la levure.", "Que ralentit le sel ?", "La levure.", 1),
        ],
    )  # fmt: skip
    def test_other_languages(self, text: str, question: str, answer: str, number: int) -> None:
        document = parse(f"{HEAD}{text}\n::instruction::\n### Q\n{question}\n### A\n{answer}\n")
        covered = [bool(sentence.pairs) for sentence in coverage(document, []).sentences]
        assert covered == [i == number for i in range(2)]

    def test_a_malformed_pair_is_an_error_before_the_first_request(self, app: App, tmp_path: Path) -> None:
        path = notes(tmp_path / "notes.dlm", "Elm", more="::instruction::\n### Q\nWhat?\n")
        for filter_ in ("none", "dedup-only"):
            with pytest.raises(InstructionParseError):
                synthesize(path, replace(PLAIN, filter=filter_))
        assert not app.calls


class TestGone:
    def test_a_pair_is_gone_when_its_sentence_is_edited_and_another_may_ask_the_same(
        self, app: App, tmp_path: Path
    ) -> None:
        path = notes(tmp_path / "notes.dlm", *TOPICS[:3])
        synthesize(path, PLAIN)
        apply(path, [staged(read(path))[0].section_id])
        assert found_in(path).totals == (3, 3, 0, 0)
        path.write_text(path.read_text().replace("beside the road", "in the forest", 2))
        found = found_in(path)
        assert [(gone.question, gone.line is None) for gone in found.gone] == [
            ("What is Alder?", False),
            ("What is Birch?", True),
        ]
        assert found.uncovered() == {f"{topic} is a plant that grows in the forest." for topic in TOPICS[:2]}
        app.calls.clear()
        done = synthesize(path, PLAIN)
        assert len(app.calls) == 2 and done.coverage == (3, 3, 0, 2)
        assert [item.pair.question for item in done.staged] == ["What is Alder?", "What is Birch?"]
        revert(path, [gone.section_id for gone in found.gone if gone.line])
        drop(read(path), [gone.section_id for gone in found.gone if gone.line is None])
        assert found_in(path).totals == (3, 3, 0, 0)

    def test_a_pair_from_a_list_knows_its_sentences_too(self, app: App, tmp_path: Path) -> None:
        async def write(call: Call) -> str:
            return listed(
                [("How long does the dough rise?", "Five hours."), ("Which things are added?", "Salt and spices.")]
            )

        app.reply = write
        path = tmp_path / "notes.dlm"
        text = "The dough has to rise for five hours. Salt is added first. Spices are added last. Nobody asks this one."
        path.write_text(f"{HEAD}{text}\n")
        synthesize(path, replace(PLAIN, ask="list"))
        assert [len(item.facts) for item in staged(read(path))] == [1, 2]
        assert asking(found_in(path)) == dict(
            zip([f.sentence for f in facts(text)], [["extraction"]] * 3 + [[]], strict=True)
        )
        path.write_text(f"{HEAD}{text.replace('five', 'six')}\n")
        assert [gone.question for gone in found_in(path).gone] == ["How long does the dough rise?"]
        path.write_text(f"{HEAD}{text.replace('last', 'at the end')}\n")
        assert [gone.question for gone in found_in(path).gone] == ["Which things are added?"]
        path.write_text(f"{HEAD}{text}\n\nAnother paragraph is added to the section.\n")
        assert found_in(path).gone == ()

    def test_without_a_record_it_is_gone_if_no_sentence_matches_and_its_source_changed(
        self, app: App, tmp_path: Path
    ) -> None:
        path = tmp_path / "notes.dlm"
        path.write_text(f"{HEAD}{prose('Alder')}\n::prose::\nBread is a food that is made of flour, water and salt.\n")
        synthesize(path, PLAIN, apply_now=True)
        origins = next(Path(tmp_path).rglob("pending_scores.json"))
        old = json.loads(origins.read_text())
        for origin in old.values():
            del origin["facts"]  # as written by an earlier version
        origins.write_text(json.dumps(old))
        assert [item.facts for item in applied(read(path))] == [(), ()] and found_in(path).totals == (2, 2, 0, 0)
        text = path.read_text()
        path.write_text(text.replace(f"{prose('Alder')}\n", f"{prose('Alder')} It is often seen.\n", 1))
        assert found_in(path).totals == (3, 2, 0, 0), "its section changed, but its sentence is there"
        path.write_text(text.replace(prose("Alder"), "Nothing of the old text is left here.", 1))
        found = found_in(path)
        assert found.totals == (2, 1, 0, 1) and found.gone[0].question == "What is Alder?"

    def test_an_expansion_pair_is_not_gone_while_its_source_is_there(self, app: App, tmp_path: Path) -> None:
        async def write(call: Call) -> str:
            return listed([("Who discovered America?", "Columbus, in 1492.")])

        app.reply = write
        path = notes(tmp_path / "notes.dlm", "Alder")
        synthesize(path, replace(PLAIN, ask="list", strategy="expansion"))
        assert found_in(path).totals == (1, 0, 0, 0)
        path.write_text(path.read_text().replace("grows", "stands"))
        assert found_in(path).totals == (1, 0, 0, 1)


class TestUncovered:
    """Runs that ask only about sentences that nothing asks about."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        own = "::instruction::\n### Q\nWhat grows beside the road, Alder or a plant?\n### A\nAlder.\n"
        return notes(tmp_path / "notes.dlm", *TOPICS[:6], more=own)

    def test_it_asks_about_just_those(self, app: App, path: Path) -> None:
        uncovered = found_in(path).uncovered()
        assert uncovered == {prose(topic) for topic in TOPICS[1:6]}
        done = synthesize(path, UNCOVERED)
        assert {about(call) for call in app.calls} == uncovered and len(app.calls) == 5
        assert done.coverage == (6, 6, 1, 0) and found_in(path).uncovered() == set()
        again = synthesize(path, UNCOVERED)
        assert (again.counts.sent, again.counts.from_ledger, len(app.calls)) == (0, 0, 5)
        path.write_text(path.read_text().replace("Cedar is a plant", "Cedar is a tree"))
        assert synthesize(path, UNCOVERED).counts.sent == 1 and found_in(path).totals == (6, 6, 1, 1)
        # This edit leaves question and answer as they are: the same pair is about the new sentence.
        path.write_text(path.read_text().replace("Elm is", "Elm was"))
        assert synthesize(path, UNCOVERED).counts.sent == 1 and found_in(path).totals == (6, 6, 1, 1)

    def test_a_rejected_pair_is_asked_for_again_from_the_ledger(self, app: App, path: Path) -> None:
        async def ask(call: Call) -> str:
            return "no question about this" if "Birch" in about(call) else f"What is {about(call).split()[0]}?"

        app.reply = ask
        assert synthesize(path, UNCOVERED).counts.question == 1
        again = synthesize(path, UNCOVERED)
        assert (again.counts.sent, again.counts.from_ledger) == (0, 1) and again.coverage == (6, 5, 1, 0)

    def test_with_a_limit_each_run_goes_on(self, app: App, path: Path) -> None:
        settings = replace(UNCOVERED, max_pairs=2)
        assert [len(synthesize(path, settings).staged) for _ in range(4)] == [2, 2, 1, 0]
        assert len(app.calls) == 5

    def test_per_section_counts_the_uncovered_sentences(self, app: App, tmp_path: Path) -> None:
        path = tmp_path / "notes.dlm"
        path.write_text(f"{HEAD}{' '.join(prose(topic) for topic in TOPICS[:4])}\n")
        for n in (1, 2, 3):
            synthesize(path, replace(UNCOVERED, per_section=1))
            assert len(app.calls) == n == found_in(path).totals.asked_about

    def test_a_dry_run_has_the_requests_of_the_run(
        self, app: App, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for settings in (UNCOVERED, replace(UNCOVERED, per_section=1), replace(UNCOVERED, max_pairs=9)):
            assert estimate(path, settings).requests == 5
        assert synthesize(path, UNCOVERED).counts.sent == 5
        assert estimate(path, UNCOVERED).requests == 0
        assert "all 6 sentences are asked about" in caplog.text

    def test_a_run_stopped_before_applying_applies_when_repeated(self, app: App, path: Path) -> None:
        synthesize(path, UNCOVERED)
        done = synthesize(path, UNCOVERED, apply_now=True)
        assert (done.applied, done.counts.sent, staged(read(path))) == (5, 0, [])
        after = path.read_bytes()
        assert synthesize(path, UNCOVERED, apply_now=True).applied == 0 and path.read_bytes() == after

    def test_two_processes_ask_about_the_same_sentences(self, app: App, path: Path, tmp_path: Path) -> None:
        options = ["--teacher", "openai:m", "--filter", "dedup-only", "--uncovered", "--max-pairs", "3", "--json"]
        command = [*LAUNCH, "-m", "dlm_trl", "synth", "instructions", "notes.dlm", *options]
        for kept, total in ((3, 4), (2, 6)):
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            (outcome,) = json.loads(done.stdout)
            assert outcome["counts"]["kept"] == kept and outcome["coverage"]["asked_about"] == total
        assert len({about(call) for call in app.calls}) == len(app.calls) == 5


class TestEdits:
    """A document of 97 sentences, 5 of them edited: at most 7 % of the requests are sent again."""

    @pytest.fixture
    def text(self) -> str:
        documents = [read(ROOT / name) for name in ("recipes/notes.dlm", "benchmarks/data/bees.dlm")]
        sections = [section for document in documents for section in document.sections if section.kind == "prose"]
        return HEAD + "::prose::\n".join(f"{section.content.strip()}\n" for section in sections)

    def test_any_five(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "notes.dlm"
        path.write_text(text)
        document, teacher = read(path), UnloadedTeacher("openai:m", "m")
        requests = plan(document, PLAIN, teacher)
        stage(document, [candidate(planned, i) for i, planned in enumerate(requests)], AT)
        pairs = staged(document)
        before = {planned.request.key for planned in requests}
        assert len(before) == 97
        shares = []
        for seed in range(50):
            changed, sentences = edited(text, seed)
            found = coverage(parse(changed), pairs)
            assert {
                pair.facts[0] for pair in pairs if pair.section_id in {gone.section_id for gone in found.gone}
            } == sentences
            uncovered = plan(parse(changed), UNCOVERED, teacher, found.uncovered())
            assert len(uncovered) == 5 <= 0.07 * len(before)
            # Without --uncovered, a sentence with "it" is asked about again if the one before it has changed.
            every = {planned.request.key for planned in plan(parse(changed), PLAIN, teacher)}
            assert {planned.request.key for planned in uncovered} <= every
            shares.append(len(every - before) / len(before))
        assert sum(shares) / len(shares) <= 0.06 and max(shares) <= 0.1

    def test_a_local_teacher(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "notes.dlm"
        path.write_text(text)
        settings = SynthSettings(teacher="hf:tiny", ask="sentences", filter="none", max_new_tokens=8)
        first = synthesize(path, settings)
        assert first.counts.generated == 97 and found_in(path).totals == (97, 97, 0, 0)
        changed, sentences = edited(text, seed=1)
        path.write_text(changed)
        asked_about = {item.pair.question for item in staged(read(path)) if item.facts[0] in sentences}
        found = found_in(path)
        assert {gone.question for gone in found.gone} == asked_about and len(found.gone) == 5
        uncovered = synthesize(path, replace(settings, ask=None, uncovered=True))
        assert 0 < uncovered.counts.sent <= 0.07 * first.counts.sent and uncovered.counts.generated == 5
        assert uncovered.coverage == (97, 97, 0, 5)
        again = synthesize(path, settings)
        assert uncovered.counts.sent + again.counts.sent <= 0.07 * first.counts.sent


def candidate(planned: PlannedRequest, number: int) -> Candidate:
    """A pair about the sentence of this request."""
    assert planned.fact
    pair = QAPair(f"What is said in sentence {number}?", planned.fact.sentence)
    return Candidate(
        pair, planned.section_id, "extraction", planned.prose, planned.request.key, 0, "openai:m", fact=planned.fact
    )


def edited(text: str, seed: int) -> tuple[str, set[str]]:
    """The text with another word in 5 of its sentences, and these as they were."""
    dice = random.Random(seed)
    sentences = [fact.sentence for section in parse(text).sections for fact in facts(section.content)]
    chosen = dice.sample(sentences, 5)
    for sentence in chosen:
        words = sentence.split(" ")
        words[dice.randrange(1, len(words) - 1)] = dice.choice(["seven", "slowly", "not"])
        text = text.replace(sentence, " ".join(words))
    return text, set(chosen)
