"""`dlm-trl synth …` as a user calls it: exit codes, stdout and stderr, files and folders."""

import gc
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from dlm_trl import load_dlm
from dlm_trl.cli import main as cli
from dlm_trl.cli.shared import print_each
from dlm_trl.notes import read
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.preference_staging import Preference, stage_preferences
from dlm_trl.synth.report import Stage, Synthesis
from dlm_trl.synth.staging import staged
from dlm_trl.synth.watch import Watch
from dlm_trl.teachers.protocol import Reply, Request
from tests.synth.writer import TOPICS, asked, listed, notes, pair, prose, topic_of, write, written
from tests.teachers.servers import Answer, App, Call

PLAIN = ("--teacher", "openai:m", "--filter", "dedup-only", "--per-section", "2")


class Done(NamedTuple):
    """Exit code, stdout and stderr."""

    code: int
    out: str
    err: str


Synth = Callable[..., Done]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: notes.dlm with three prose sections."""
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    notes(Path("notes.dlm"), *TOPICS[:3])
    return tmp_path / "work"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    with asked(App(reply=write), monkeypatch) as running:
        yield running


@pytest.fixture
def synth(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Synth:
    """synth("list", "notes.dlm") runs the program's entry point in this process."""

    def run(*words: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["dlm-trl", "synth", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        done = Done(end.value.code, *capsys.readouterr())
        assert "Traceback" not in done.err
        return done

    return run


async def ask_about_sentence(call: Call) -> str:
    """A question about the sentence of a request."""
    return f"What is {call.body['messages'][0]['content'].rpartition('Fact: ')[2].split()[0]}?"


def ids(path: Path = Path("notes.dlm")) -> list[str]:
    return [item.section_id for item in staged(read(path))]


def questions(kind: str = "sft") -> list[str]:
    """The ids of the training rows, in any split."""
    rows = load_dlm("notes.dlm", kind)
    return sorted(row["prompt"][-1]["content"] for split in rows.values() for row in split)


def test_from_prose_to_pairs_and_back(app: App, synth: Synth) -> None:
    notes(Path("notes.dlm"), *TOPICS[:3], more="\n::instruction::\n### Q\nWho trims hedges?\n### A\nFarmers.\n")
    original = Path("notes.dlm").read_bytes()
    done = synth("instructions", "notes.dlm", *PLAIN)
    assert done.code == 0 and len(app.calls) == 3
    assert (
        "sections 3, requests 3 (retries 0), from the ledger 0, replied 3, failed 0, unreadable 0, pairs 6" in done.out
    )
    assert "synth filter: generated 6, dedup 6\n" in done.out and "kept 6" in done.out
    assert Path("notes.dlm").read_bytes() == original

    listed_now = synth("list", "notes.dlm")
    assert listed_now.code == 0 and listed_now.out.endswith("0 applied, 6 staged.\n")
    assert all(f"\n{id[:8]}\tstaged\topenai:m\t" in listed_now.out for id in ids())
    header, *lines, _ = (line.split("\t") for line in listed_now.out.splitlines())
    assert header[:7] == ["id", "state", "teacher", "strategy", "margin", "grounding", "question"]
    cells = [dict(zip(header, line, strict=True)) for line in lines]
    assert [(row["question"], row["answer"]) for row in cells] == [
        pair(topic, noun) for topic in TOPICS[:3] for noun in ("colour", "height")
    ]

    first, second, third, *_ = all_ids = ids()
    shown = synth("show", "notes.dlm", first[:6])
    assert shown.code == 0 and f"{first} (staged)" in shown.out
    for text in (*pair("Alder", "colour"), "Its prose, line 6:", "The teacher's reply:"):
        assert text in shown.out

    assert synth("drop", "notes.dlm", second[:8]).out == "Dropped 1 staged pairs.\n"
    assert synth("apply", "notes.dlm", first[:8], third).out == "Applied 2 pairs to notes.dlm.\n"
    assert synth("list", "notes.dlm").out.endswith("2 applied, 3 staged.\n")
    assert f"{first} (applied)" in synth("show", "notes.dlm", first).out
    for id, state in ((first, "applied"), (ids()[0], "staged")):
        explained = synth("list", "notes.dlm", "--explain", id[:8])
        assert explained.code == 0 and explained.out.startswith(f"{id} ({state})\n")
        assert explained.out.endswith(f"dlm-trl synth show notes.dlm {id[:8]}\n")
        assert "\nduplicate\tnothing in the file" in explained.out and "\nanswer\tThe " in explained.out
    assert synth("apply", "notes.dlm").out == "Applied 3 pairs to notes.dlm.\n" and ids() == []

    new = [question for topic in TOPICS[:3] for question, _ in written(topic, 2)]
    new.remove(pair("Alder", "height")[0])
    assert questions() == sorted(["Who trims hedges?", *new])
    assert (questions("sft_human"), questions("sft_synth")) == (["Who trims hedges?"], sorted(new))

    assert synth("revert", "notes.dlm", "--teacher", "hf:other").out == "Removed 0 synthesised pairs from notes.dlm.\n"
    assert synth("revert", "notes.dlm", "--id", first[:8]).out == "Removed 1 synthesised pairs from notes.dlm.\n"
    assert synth("revert", "notes.dlm", "--teacher", "openai:m").out.startswith("Removed 4 ")
    assert Path("notes.dlm").read_bytes() == original and len(all_ids) == 6


def test_apply_at_once(app: App, synth: Synth) -> None:
    done = synth("instructions", "notes.dlm", *PLAIN, "--apply")
    assert done.code == 0 and "Applied 6 of 6 accepted pairs to notes.dlm." in done.out
    assert synth("list", "notes.dlm").out.endswith("6 applied, 0 staged.\n")
    done = synth("instructions", "notes.dlm", *PLAIN, "--apply")
    assert done.code == 0 and "Accepted 6 pairs; all of them were already there." in done.out


def test_coverage_names_what_is_left_and_the_commands_that_remove_what_is_gone(
    app: App, synth: Synth, folder: Path
) -> None:
    file = Path("my notes.dlm")
    Path("notes.dlm").rename(file)
    done = synth("coverage", file)
    assert done.code == 0 and done.out.startswith("my notes.dlm: 0 of 3 sentences are asked about (0 by pairs of the ")
    assert "\nline\tsection\tsentences\tasked about\n6\t" in done.out
    assert f"\nNothing asks about:\nmy notes.dlm:6: {prose(TOPICS[0])}\n" in done.out

    app.reply = ask_about_sentence
    words = ("--teacher", "openai:m", "--filter", "dedup-only")
    done = synth("instructions", file, *words, "--uncovered", "--max-pairs", "2")
    assert "Coverage: 2 of 3 sentences are asked about. To see which: dlm-trl synth coverage my notes.dlm." in done.out
    assert "Coverage: 3 of 3 sentences are asked about.\n" in synth("instructions", file, *words, "--uncovered").out
    done = synth("instructions", file, *words, "--uncovered")
    assert done == (0, "my notes.dlm: all 3 sentences are asked about; no request was sent.\n", "")
    (found,) = json.loads(synth("coverage", file, "--json").out)
    assert found["counts"] == {"sentences": 3, "asked_about": 3, "own": 0, "gone": 0}
    (pair_,) = found["sections"][0]["sentences"][0]["pairs"]
    assert (pair_["kind"], pair_["question"], pair_["line"]) == ("extraction", f"What is {TOPICS[0]}?", None)

    synth("apply", file, ids(file)[0])
    file.write_text(file.read_text().replace("beside the road", "in the forest", 2))
    done = synth("coverage", file)
    assert f": What is {TOPICS[0]}?\n" in done.out and f" staged: What is {TOPICS[1]}?\n" in done.out
    commands = [line.partition("dlm-trl synth ")[2] for line in done.out.splitlines() if "dlm-trl synth " in line]
    assert [command.split()[0] for command in commands] == ["revert", "drop"]
    for command in commands:
        assert synth(*shlex.split(command)).code == 0
    done = synth("coverage", file)
    assert done.out.startswith("my notes.dlm: 1 of 3 sentences") and "gone" not in done.out


def test_coverage_of_a_document_without_prose(synth: Synth) -> None:
    notes(Path("empty.dlm"))
    assert synth("coverage", "empty.dlm") == (0, "empty.dlm: no sentences to ask about.\n", "")


def test_files_and_folders(app: App, synth: Synth, folder: Path) -> None:
    (folder / "more" / ".dlm").mkdir(parents=True)
    for name, id in (("[draft].dlm", "B"), ("b.dlm", "C")):
        path = notes(folder / "more" / name, *TOPICS[3:5])
        path.write_text(path.read_text().replace("0000000A", f"0000000{id}"))
    (folder / "more" / "no.md").write_text("Not a document.")
    done = synth("instructions", "notes.dlm", "more", "more/b.dlm", *PLAIN, "--apply")
    assert done.code == 0 and done.out.count("synth plan:") == 3
    assert "Applied 4 of 4 accepted pairs to more/[draft].dlm." in done.out
    shown = synth("list", ".").out
    assert "more/[draft].dlm" in shown and shown.count(" applied, 0 staged.\n") == 3
    done = synth("revert", "more", "notes.dlm")
    assert [line.split()[1] for line in done.out.splitlines()] == ["4", "4", "6"]


def test_json_is_all_that_is_printed(app: App, synth: Synth) -> None:
    (outcome,) = json.loads(synth("instructions", "notes.dlm", *PLAIN, "--json").out)
    assert (outcome["path"], outcome["counts"]["kept"], len(outcome["staged"])) == ("notes.dlm", 6, 6)
    synth("apply", "notes.dlm", ids()[0])
    (found,) = json.loads(synth("list", "notes.dlm", "--json").out)
    assert found["path"] == "notes.dlm"
    assert [len(found[state]) for state in ("applied", "staged")] == [1, 5]
    question, answer = pair("Alder", "colour")
    (item,) = found["applied"]
    assert item["pair"] == {"question": question, "answer": answer} and item["prose"] == prose("Alder")


def test_pairs_are_listed_with_the_sentences_that_they_come_from(app: App, synth: Synth) -> None:
    async def about_prose(call: Call) -> str:
        return listed([(f"What is {topic_of(call)}?", prose(topic_of(call)))])

    app.reply = about_prose
    synth("instructions", "notes.dlm", *PLAIN)
    header, *lines, _ = (line.split("\t") for line in synth("list", "notes.dlm").out.splitlines())
    cells = [dict(zip(header, line, strict=True)) for line in lines]
    expected = [(str(line), prose(topic)) for line, topic in zip((6, 9, 12), TOPICS, strict=False)]
    assert [(row["line"], row["sentence"]) for row in cells] == expected
    (found,) = json.loads(synth("list", "notes.dlm", "--json").out)
    assert [(str(item["line"]), item["sentence"]) for item in found["staged"]] == expected
    assert [item["prose"] for item in found["staged"]] == [sentence for _, sentence in expected]


def test_json_includes_the_documents_before_a_failure(app: App, synth: Synth) -> None:
    notes(Path("copy.dlm"), *TOPICS[:3])
    done = synth("instructions", "notes.dlm", "copy.dlm", *PLAIN, "--json")
    assert done.code == 1 and "copy.dlm has the same dlm_id" in done.err
    assert [outcome["path"] for outcome in json.loads(done.out)] == ["notes.dlm"] and len(ids()) == 6


@pytest.mark.parametrize("json_", [True, False])
def test_outcomes_are_printed_one_by_one_and_not_kept(capsys: pytest.CaptureFixture[str], json_: bool) -> None:
    parts = []

    def run(_: Watch | None) -> Iterator[Synthesis]:
        for number in range(4):
            yield Synthesis(Path(f"{number}.dlm"), "openai:m", None)
            parts.append(capsys.readouterr().out)
        gc.collect()
        assert sum(type(each) is Synthesis for each in gc.get_objects()) <= 1

    print_each(run, lambda outcome: f"{outcome.path} is done", json_)
    assert all(f"{number}.dlm" in part for number, part in enumerate(parts)) and len(parts) == 4
    if json_:
        written = json.loads("".join([*parts, capsys.readouterr().out]))
        assert [outcome["path"] for outcome in written] == [f"{number}.dlm" for number in range(4)]


def test_losses_are_shown_with_their_duplicates(app: App, synth: Synth) -> None:
    async def repeat(call: Call) -> str:
        return listed([pair("Alder", "colour"), ("What?\x00", "No.")])

    app.reply = repeat
    done = synth("instructions", "notes.dlm", *PLAIN)
    question = "What is the colour of Alder?"
    assert f"\nduplicate\t×2\tthe same as another pair\t· {question} ('{question}' of this run) (×2)\n" in done.out
    assert (
        "\nguard\t×3\tThe question contains the control character or surrogate U+0000.\t· What?\\x00 (×3)\n" in done.out
    )
    lost = dict.fromkeys(get_args(Stage), 0) | {"guard": 3, "duplicate": 2}
    assert f"\nlost: {', '.join(f'{stage} {n}' for stage, n in lost.items())}; kept 1\n" in done.out
    assert "; kept 1\n" in done.out


def test_control_characters_and_surrogates_are_escaped(app: App, synth: Synth) -> None:
    async def strange(call: Call) -> str:
        return listed([("What?\x1b[2J", "No."), ("Half \ud800?", "Yes."), ("Two\nlines\x7f?", "No."), ("A?", "Yes.")])

    app.reply = strange
    words = ("instructions", "notes.dlm", *PLAIN)
    done = synth(*words)
    assert done.code == 0 and "\x1b" not in done.out and "\x7f" not in done.out
    for shown in ("\t· What?\\x1b[2J (×3)\n", "\t· Half \\ud800? (×3)\n", "\t· Two lines\\x7f? (×3)\n"):
        assert shown in done.out
    (outcome,) = json.loads(synth(*words, "--json").out)
    assert outcome["losses"][1]["pair"]["question"] == "Half \ud800?"
    shown = synth("show", "notes.dlm", ids()[0])
    assert shown.code == 0 and "A?" in shown.out


def in_a_terminal(*words: object) -> str:
    """The output of a command in a terminal, stdout and stderr."""
    import pty

    parent, child = pty.openpty()
    command = [sys.executable, "-m", "dlm_trl", "synth", *map(str, words)]
    written = b""
    with subprocess.Popen(command, stdout=child, stderr=child) as process:
        os.close(child)
        try:
            while part := os.read(parent, 100_000):
                written += part
        except OSError:  # on Linux, the other end is closed
            pass
    os.close(parent)
    assert process.returncode == 0, written
    return written.decode()


def test_a_terminal_gets_a_table_if_it_is_wide_enough(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("instructions", "notes.dlm", *PLAIN, "--dry-run")
    monkeypatch.setenv("COLUMNS", "80")
    shown = plain(in_a_terminal(*words)).replace("\r", "")
    assert re.search(r"^document +sections +requests .*\n─+\nnotes.dlm +3 +3 +0 ", shown, re.MULTILINE)
    monkeypatch.setenv("COLUMNS", "40")
    assert "\nnotes.dlm\t3\t3\t0\t" in in_a_terminal(*words).replace("\r", "")
    assert in_a_terminal("instructions", "notes.dlm", *PLAIN)
    monkeypatch.setenv("COLUMNS", "64")
    shown = in_a_terminal("list", "notes.dlm").replace("\r", "")
    assert all(item.section_id[:8] in shown and item.pair.answer in shown for item in staged(read("notes.dlm")))
    assert "Line 6: " in shown and max(map(len, plain(shown).splitlines())) <= 64


def plain(shown: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", shown)


def test_a_terminal_shows_how_far_the_judge_is(app: App) -> None:
    shown = plain(in_a_terminal("instructions", "notes.dlm", "--teacher", "openai:m", "--threshold=-99"))
    assert "requests" in shown and "judging" in shown and "9 pairs → " in shown and "9/9" in shown


def test_in_a_terminal_a_report_starts_on_its_own_line(app: App) -> None:
    Path("more.dlm").write_text(Path("notes.dlm").read_text().replace("0000000A", "0000000B"))
    shown = in_a_terminal("instructions", "notes.dlm", "more.dlm", *PLAIN)
    assert plain(shown).count("\n  requests") >= 2 and plain(shown).count("3/3") >= 2
    for name in ("notes", "more"):
        before, report, _ = shown.partition(f"{name}.dlm: teacher openai:m\r\n")
        # The bar's line was erased or has ended.
        assert report and before.endswith(("\x1b[2K", "\n")), before[-80:]


def test_only_the_first_process_prints(app: App, synth: Synth, monkeypatch: pytest.MonkeyPatch) -> None:
    synth("instructions", "notes.dlm", *PLAIN)
    original, staged_now = Path("notes.dlm").read_bytes(), ids()
    monkeypatch.setenv("RANK", "1")
    for words in (("list",), ("show", ids()[0]), ("apply",), ("drop", ids()[0]), ("revert",)):
        assert synth(words[0], "notes.dlm", *words[1:]) == (0, "", "")
    assert synth("instructions", "notes.dlm", *PLAIN, "--dry-run") == (0, "", "")
    assert Path("notes.dlm").read_bytes() == original and ids() == staged_now


def test_nothing_accepted_is_exit_0_with_the_reason_and_the_option(app: App, synth: Synth) -> None:
    app.reply = lambda call: written_nothing()
    done = synth("instructions", "notes.dlm", *PLAIN)
    assert (
        done.code == 0 and "--max-new-tokens; `synth show FILE SECTION` prints the replies." in done.out
    )  # in one line
    assert "No pair was accepted." in done.out
    section = read("notes.dlm").sections[1].section_id
    assert f"- section {section[:8]}: " in done.out
    shown = synth("show", "notes.dlm", section[:8])
    assert shown.code == 0 and shown.out.count("I would rather not.") == 2
    done = synth("instructions", "notes.dlm", *PLAIN, "--budget-tokens", "1", "--fresh")
    assert done.code == 0 and "exceed the limit" in done.out


def test_the_reason_is_about_the_new_pairs_not_the_duplicates(app: App, synth: Synth) -> None:
    synth("instructions", "notes.dlm", *PLAIN)
    assert "repeat others" in synth("instructions", "notes.dlm", *PLAIN[:-2], "--per-section", "1").out
    judged = ("--filter", "sway", "--threshold", "-99", "--min-grounding", "99")
    done = synth("instructions", "notes.dlm", *PLAIN[:2], *judged, "--per-section", "3")
    assert "duplicate 6" in done.out and "grounding 3" in done.out and "lower --min-grounding" in done.out


async def written_nothing() -> str:
    return "I would rather not."


def test_replies_are_found_after_a_blank_line_changed_the_sections_id(app: App, synth: Synth) -> None:
    app.reply = lambda call: written_nothing()
    synth("instructions", "notes.dlm", *PLAIN)
    before = read("notes.dlm").sections[-1].section_id
    with open("notes.dlm", "a") as file:
        file.write("\n\n")
    after = read("notes.dlm").sections[-1].section_id
    assert after != before and synth("show", "notes.dlm", after).out.count("I would rather not.") == 2


def test_requests_that_fail_are_exit_1_and_the_others_are_kept(app: App, synth: Synth) -> None:
    app.rule = lambda call: Answer(422, {"error": {"message": "out of order"}}) if topic_of(call) == "Birch" else None
    done = synth("instructions", "notes.dlm", *PLAIN)
    assert done.code == 1 and "failed 1" in done.out and "out of order" in done.out and len(ids()) == 4
    app.rule = lambda call: None
    done = synth("instructions", "notes.dlm", *PLAIN)
    assert done.code == 0 and "requests 1 (retries 0), from the ledger 2" in done.out and len(ids()) == 6


@pytest.mark.parametrize(
    "words",
    [
        ("instructions",),
        ("instructions", "nothing.dlm", *PLAIN),
        ("instructions", "notes.dlm", *PLAIN, "--max-cost", "1"),
        ("instructions", "notes.dlm", *PLAIN, "--max-cost", "nan", "--price", "1,2"),
        ("instructions", "notes.dlm", *PLAIN, "--price", "1"),
        ("instructions", "notes.dlm", *PLAIN, "--price=-1,2"),
        ("instructions", "notes.dlm", *PLAIN, "--apply", "--dry-run"),
        ("instructions", "notes.dlm", *PLAIN, "--per-section", "0"),
        ("instructions", "notes.dlm", *PLAIN, "--temp", "warm"),
        ("instructions", "notes.dlm", *PLAIN, "--top-p", "2"),
        ("instructions", "notes.dlm", *PLAIN, "--filter", "strict"),
        ("instructions", "notes.dlm", *PLAIN, "--prompt", "nothing.txt"),
        ("instructions", "notes.dlm", "--teacher", "nobody"),
        ("instructions", "notes.dlm", "--teacher", "openai:"),
        ("instructions", "notes.dlm", "--teacher", "openai:m", "--judge", "openai:m"),
        ("instructions", "notes.dlm", *PLAIN, "--judge", "openai:m", "--dry-run"),
        ("instructions", "notes.dlm", "--teacher", "vllm-server:localhost:8000", "--dry-run"),
        ("instructions", "notes.dlm", "--teacher", "hf:tiny", "--batch"),
        ("views", "notes.dlm", "--teacher", "vllm-server:http://127.0.0.1:1#m", "--batch"),
        ("list", "nothing.dlm"),
        ("list", "notes.dlm", "copies", "--explain", "ab"),
        ("list", "notes.dlm", "--explain", "ab", "--json"),
        ("show", "notes.dlm"),
        ("apply", "nothing.dlm"),
        ("drop", "notes.dlm"),
        ("revert", "empty"),
        ("nonsense",),
    ],
)
def test_misuse_is_exit_2(app: App, synth: Synth, folder: Path, words: tuple[str, ...]) -> None:
    (folder / "empty").mkdir()
    (folder / "copies").mkdir()
    (folder / "copies" / "notes.dlm").touch()
    done = synth(*words)
    assert done.code == 2 and done.out == "" and done.err and not app.calls


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_name_that_is_not_utf8_is_refused_in_one_line(app: App, synth: Synth) -> None:
    path = notes(Path(os.fsdecode(b"\xff.dlm")), "Elm")
    for words in (("instructions", path, *PLAIN), ("list", path), ("apply", path)):
        done = synth(*words)
        assert (done.code, done.out) == (1, "") and "\\udcff.dlm' is not UTF-8. Rename" in done.err
    assert not app.calls


def test_failures_are_exit_1_and_one_line(app: App, synth: Synth, folder: Path) -> None:
    (folder / "broken.dlm").write_text("no front matter")
    (folder / "prompt.txt").write_text("Write\n{{ count }}")
    for words, message in [
        (("instructions", "notes.dlm"), "dlm-trl train notes.dlm"),
        (("instructions", "notes.dlm", "broken.dlm", *PLAIN), "broken.dlm:"),
        (("instructions", "notes.dlm", *PLAIN, "--prompt", "prompt.txt"), "prompt.txt:2: "),
        (("list", "broken.dlm"), "broken.dlm:"),
        (("show", "notes.dlm", "ffff"), "'ffff'"),
        (("list", "notes.dlm", "--explain", "ffff"), "'ffff'"),
        (("apply", "notes.dlm", "ffff"), "'ffff'"),
        (("drop", "notes.dlm", "ffff"), "'ffff'"),
        (("show", "notes.dlm", ""), "''"),
        (("revert", "notes.dlm", "--id", "ffff"), "'ffff'"),
    ]:
        done = synth(*words)
        assert (done.code, done.out) == (1, "") and message in done.err and done.err.count("\n") == 1, words
    assert not app.calls


def test_a_document_without_prose(app: App, synth: Synth) -> None:
    notes(Path("empty.dlm"))
    done = synth("instructions", "empty.dlm", *PLAIN)
    assert done.code == 0 and "no prose to ask about" in done.out
    assert synth("list", "empty.dlm").out == "empty.dlm: 0 applied, 0 staged.\n"


def test_sources_are_never_asked_about(app: App, synth: Synth) -> None:
    Path("vault").mkdir()
    Path("vault/a.md").write_text("The pump is bled on Mondays.", encoding="utf-8")
    notes(Path("own.dlm"))
    text = Path("own.dlm").read_text(encoding="utf-8")
    training = "base_model: tiny\ntraining: {sources: [{path: vault}]}"
    Path("own.dlm").write_text(text.replace("base_model: tiny", training), encoding="utf-8")
    done = synth("instructions", "own.dlm", *PLAIN)
    assert done.code == 0 and "never asked about" in done.out and not app.calls
    assert "never asked about" in synth("instructions", "own.dlm", *PLAIN, "--dry-run").err


def test_an_interrupt_ends_it_without_a_traceback(app: App, folder: Path) -> None:
    app.rule = lambda call: Answer(wait=60.0)
    command = [sys.executable, "-m", "dlm_trl", "synth", "instructions", "notes.dlm", *PLAIN]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell that runs the tests in the background makes its children ignore interrupts.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **pipes, preexec_fn=heard) as process:
        while not app.now and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130 and not out
    assert err == "Stopped. Finished requests are kept: rerun the same command to resume.\n"
    assert app.left + app.now >= 1 and os.listdir(folder) == ["notes.dlm"]


class TestDryRun:
    def test_it_sends_nothing_and_estimates_a_run(self, app: App, synth: Synth) -> None:
        words = ("instructions", "notes.dlm", *PLAIN, "--max-new-tokens", "64", "--price", "1,2", "--dry-run")
        done = synth(*words)
        assert done.code == 0 and not app.calls and "No request was sent." in done.out
        (found,) = json.loads(synth(*words, "--json").out)
        assert (found["sections"], found["requests"], found["from_ledger"], found["seconds"]) == (3, 3, 0, None)
        assert found["sentences"] == 0 and "sentences" not in done.out
        assert found["max_usage"]["completion_tokens"] == 3 * 64 and not found["exact"]
        assert found["cost"] == pytest.approx((found["max_usage"]["prompt_tokens"] + 2 * 3 * 64) / 1e6)
        ran = json.loads(synth(*words[:-1], "--json").out)
        assert ran[0]["cost"] <= found["cost"]
        (after,) = json.loads(synth(*words, "--json").out)
        assert (after["requests"], after["from_ledger"], after["cost"]) == (3, 3, 0.0)
        (fresh,) = json.loads(synth(*words, "--json", "--fresh").out)
        assert fresh["from_ledger"] == 0 and fresh["seconds"] > 0 and len(app.calls) == 3

    def test_ledger_entries_of_a_server_count_if_its_model_is_named(
        self, app: App, synth: Synth, caplog: pytest.LogCaptureFixture
    ) -> None:
        teacher, words = f"vllm-server:{os.environ['OPENAI_BASE_URL']}", PLAIN[2:]
        synth("instructions", "notes.dlm", "--teacher", teacher, *words)
        for named, remembered in ((teacher, 0), (f"{teacher}#m", 3)):
            caplog.clear()
            done = synth("instructions", "notes.dlm", "--teacher", named, *words, "--dry-run", "--json")
            assert json.loads(done.out)[0]["from_ledger"] == remembered
            assert ("vllm-server:URL#MODEL" in caplog.text) == (not remembered)

    def test_a_few_concurrent_requests_take_as_long_as_one(self, app: App, synth: Synth) -> None:
        ledger = Ledger(read("notes.dlm"))
        for i, seconds in enumerate((1.0, 3.0)):
            ledger.record(Request(str(i), []), Reply(str(i), "", seconds=seconds), teacher="openai:m")
        for concurrency, expected in ((16, 2.0), (3, 2.0), (2, 4.0), (1, 6.0)):
            words = ("instructions", "notes.dlm", *PLAIN, "--dry-run", "--json", "--concurrency", concurrency)
            (found,) = json.loads(synth(*words).out)
            assert found["seconds"] == expected, concurrency

    def test_the_tiny_models_tokens_are_counted(self, synth: Synth) -> None:
        words = ("instructions", "notes.dlm", "--teacher", "hf:tiny", "--max-new-tokens", "32", "--filter", "none")
        (found,) = json.loads(synth(*words, "--dry-run", "--json").out)
        (ran,) = json.loads(synth(*words, "--json").out)
        command = [sys.executable, "-m", "dlm_trl", "synth", *words, "--dry-run"]
        assert subprocess.run(command, capture_output=True, text=True).stderr == ""
        assert found["exact"] and found["max_usage"]["prompt_tokens"] == ran["usage"]["prompt_tokens"]
        assert found["max_usage"]["completion_tokens"] == 3 * 32 >= ran["usage"]["completion_tokens"]

    def test_the_openings_of_questions_are_counted(self, synth: Synth) -> None:
        words = ("instructions", "notes.dlm", "--teacher", "hf:tiny", "--ask", "sentences", "--filter", "none")
        (found,) = json.loads(synth(*words, "--dry-run", "--json").out)
        (ran,) = json.loads(synth(*words, "--json").out)
        assert found["requests"] == ran["counts"]["sent"] > ran["counts"]["generated"] == found["sentences"] > 0
        lines = synth(*words, "--dry-run").out.splitlines()
        assert lines[0].split("\t")[:4] == ["document", "sections", "sentences", "requests"]
        assert lines[-1].startswith(f"{found['sentences']} sentences, {found['requests']} requests: ")
        assert found["max_usage"]["prompt_tokens"] == ran["usage"]["prompt_tokens"]


def test_preferences_are_listed_applied_dropped_and_reverted_like_pairs(app: App, synth: Synth) -> None:
    one = Preference("What?", "This.", "That.", "hf:tiny", 1.5, 0.25, "2026-01-01T00:00:00Z", 1, teacher="openai:m")
    other = replace(one, prompt="Why?")
    original = Path("notes.dlm").read_bytes()
    synth("instructions", "notes.dlm", *PLAIN, "--max-pairs", "1")
    stage_preferences(read("notes.dlm"), [one, other])
    out = synth("list", "notes.dlm").out
    assert "0 applied, 1 staged.\n" in out and out.endswith("notes.dlm: 0 preferences applied, 2 staged.\n")
    assert f"\n{one.section_id[:8]}\tstaged\topenai:m\thf:tiny\t1.50 > 0.25\tWhat?\tThis.\tThat.\n" in out
    (found,) = json.loads(synth("list", "notes.dlm", "--json").out)
    assert [item["prompt"] for item in found["preferences"]["staged"]] == ["What?", "Why?"]

    for words in (("show", "notes.dlm", one.section_id[:8]), ("list", "notes.dlm", "--explain", one.section_id[:8])):
        out = synth(*words).out
        assert out.startswith(f"{one.section_id} (staged)\npreference, teacher openai:m, judge hf:tiny")
        assert "chosen: This.\nrejected: That.\n" in out
        assert "margin 1.50 chosen, 0.25 rejected: " in out and "gap 1.25: " in out

    assert synth("apply", "notes.dlm", one.section_id[:8]).out == "Applied 1 preferences to notes.dlm.\n"
    assert len(ids()) == 1, "the pair is still staged"
    assert synth("drop", "notes.dlm", other.section_id[:8]).out == "Dropped 1 staged preferences.\n"
    assert synth("apply", "notes.dlm").out == "Applied 1 pairs to notes.dlm.\n"
    assert "No id starts with" in synth("drop", "notes.dlm", "0123").err
    done = synth("revert", "notes.dlm")
    assert done.out == "Removed 1 synthesised pairs from notes.dlm.\nRemoved 1 preferences from notes.dlm.\n"
    assert Path("notes.dlm").read_bytes() == original
