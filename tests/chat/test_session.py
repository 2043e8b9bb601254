"""A conversation answers as the recipe measures, keeps within the context, and is stopped without harm."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_trl.chat.loop import answer_once, chat_by_lines
from dlm_trl.chat.opening import ChatModel, open_model
from dlm_trl.chat.session import Session
from dlm_trl.evaluation.notes_score import score_open_book
from dlm_trl.evaluation.recall import answer_recall
from dlm_trl.evaluation.spec import NotesQuestions
from dlm_trl.models.chat import encode
from dlm_trl.models.frozen import frozen
from dlm_trl.models.generate import generate
from dlm_trl.notes import DlmError, store

QUESTION = "What lifts the dough?"


@pytest.fixture
def chat(trained: Callable[[str], Path], random_base: Path) -> ChatModel:
    return open_model(str(trained(str(random_base))))


def ask(session: Session, question: str) -> str:
    pieces: list[str] = []
    turn = session.ask(question, pieces.append)
    assert "".join(pieces).strip() == turn.answer
    return turn.answer


def test_a_question_is_answered_as_the_recipe_measures_it(chat: ChatModel) -> None:
    recall = answer_recall(chat.model, chat.tokenizer, [(QUESTION, "The gas that the yeast makes.", chat.system)])
    limit = len(chat.tokenizer("The gas that the yeast makes.")["input_ids"]) + 8
    assert chat.system == "You answer in one short sentence."
    answer = ask(Session(chat, limit), QUESTION)
    assert " ".join(answer.split()) == recall.answers[0] != ""


def test_earlier_turns_are_part_of_the_prompt_until_they_are_forgotten(chat: ChatModel) -> None:
    session = Session(chat, 12)
    first = ask(session, QUESTION)
    second = ask(session, "Who bakes the bread?")
    messages = [
        {"role": "system", "content": chat.system},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Who bakes the bread?"},
    ]
    assert second == generate(chat.model, chat.tokenizer, [encode(chat.tokenizer, messages)], 12)[0].strip()
    assert second != ask(Session(chat, 12), "Who bakes the bread?")
    session.reset()
    assert ask(session, QUESTION) == first


def test_the_adapter_can_be_switched_off_and_on(chat: ChatModel) -> None:
    session = Session(chat, 12)
    adapted = ask(session, QUESTION)
    session.use_base = True
    turn = session.ask_again(lambda text: None)
    messages = [{"role": "system", "content": chat.system}, {"role": "user", "content": QUESTION}]
    with frozen(chat.model) as base:
        assert turn.answer == generate(base, chat.tokenizer, [encode(chat.tokenizer, messages)], 12)[0].strip()
    assert turn.answer != adapted and turn.base
    assert [turn.answer for turn in session.turns] == [adapted], "the comparison isn't part of the conversation"
    session.use_base = False
    assert session.ask_again(lambda text: None).answer == adapted


def test_with_the_notes_an_answer_is_that_of_the_open_book(chat: ChatModel) -> None:
    questions = NotesQuestions({"seen": [(QUESTION, "The gas.", chat.system)]})
    with frozen(chat.model) as base:
        book = score_open_book(base, chat.tokenizer, questions, chat.notes)
    session = Session(chat, 24)
    session.use_base = session.use_notes = True
    answer = ask(session, QUESTION)
    assert book is not None and " ".join(answer.split()) == book.answers["seen"][QUESTION]
    session.use_notes = False
    assert ask(session, QUESTION) != answer


def test_the_oldest_turns_are_dropped_when_the_context_is_full(chat: ChatModel) -> None:
    session = Session(chat, 40)
    assert session.context == 512
    dropped = []
    for number in range(12):
        turn = session.ask(f"Who bakes the bread of day {number}?", lambda text: None)
        dropped.append(turn.dropped)
        asked = [turn.question for turn in session.turns]
        assert asked == [f"Who bakes the bread of day {n}?" for n in range(number + 1)][-len(asked) :]
    assert sum(dropped) == 12 - len(session.turns) > 0 and dropped[0] == 0
    with pytest.raises(DlmError, match=r"The question has \d+ tokens.*512 tokens for question and answer"):
        session.ask("dough " * 512, lambda text: None)
    assert session.turns[-1].question == "Who bakes the bread of day 11?"


def test_a_stopped_answer_leaves_the_model_as_it_was(chat: ChatModel) -> None:
    def stop(text: str) -> None:
        raise KeyboardInterrupt

    session = Session(chat, 12)
    whole = ask(session, QUESTION)
    session.reset()
    session.use_base = True
    turn = session.ask(QUESTION, stop)
    assert not turn.complete and turn.answer
    session.use_base = False
    session.reset()
    assert ask(session, QUESTION) == whole


def test_sampling_follows_the_seed(chat: ChatModel) -> None:
    answers = [ask(Session(chat, 12, temperature=1.5, seed=seed), QUESTION) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_lines_are_questions_and_commands(chat: ChatModel, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        "/reset\n",
        f"{QUESTION}\n",
        "\n",
        "/base\n",
        "/notes\n",
        "/what\n",
        "dough " * 512,
        "/exit\n",
        "Unasked?\n",
    ]
    assert not chat_by_lines(Session(chat, 12), lines, as_json=True), "one question was too long"
    out, err = capsys.readouterr()
    turns = [json.loads(line) for line in out.splitlines()]
    assert [(turn["question"], turn["base"], turn["notes"]) for turn in turns] == [
        (QUESTION, False, False),
        (QUESTION, True, False),
        (QUESTION, True, True),
    ]
    assert "Unknown command /what" in err and "The question has" not in out
    assert chat_by_lines(Session(chat, 12), [QUESTION])
    assert capsys.readouterr().out.strip() == turns[0]["answer"]
    answer_once(Session(chat, 12), QUESTION)
    assert capsys.readouterr().out.strip() == turns[0]["answer"]


def test_what_is_not_there_cant_be_switched(chat: ChatModel, capsys: pytest.CaptureFixture[str]) -> None:
    bare = replace(chat, model=chat.model.get_base_model(), notes=())
    assert chat_by_lines(Session(bare, 12), ["/base", "/notes"])
    out, err = capsys.readouterr()
    assert out == "" and "no adapter to switch off" in err and "--notes FILE.dlm" in err


def test_a_documents_current_adapter_is_opened(
    chat: ChatModel, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    with pytest.raises(DlmError, match="No adapter of this document has been trained yet"):
        open_model(str(notes))
    store.publish_adapter("01K9BREADW1THS0VRD0VGH2T3R", (tmp_path / "run").iterdir())
    opened = open_model(str(notes))
    assert opened.notes == chat.notes and opened.system == chat.system
    assert ask(Session(opened, 12), QUESTION) == ask(Session(chat, 12), QUESTION)


def test_a_document_that_moved_is_reported(chat: ChatModel, notes: Path, tmp_path: Path) -> None:
    moved = notes.rename(tmp_path / "moved.dlm")
    opened = open_model(str(tmp_path / "run"))
    assert opened.notes == () and opened.system is None
    assert "notes.dlm" in opened.remarks[0] and "--notes" in opened.remarks[0]
    assert open_model(str(tmp_path / "run"), notes=moved).notes == chat.notes
    notes.write_text(moved.read_text().replace("01K9BREADW1THS0VRD0VGH2T3R", "01K9BREADW1THS0VRD0VGH2T3S"))
    assert "another document" in open_model(str(tmp_path / "run")).remarks[0]


def test_a_folder_without_a_model_and_awq_weights_without_kernels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DlmError, match=r"neither an adapter .* nor a model"):
        open_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    monkeypatch.setattr("dlm_trl.notes.extras.find_spec", lambda name: None)
    with pytest.raises(DlmError, match=r"AWQ weights needs gptqmodel.*pip install.*quant.*merged model"):
        open_model(str(tmp_path))
    with pytest.raises(DlmError, match="Unknown base model 'no-such-model'"):
        open_model("no-such-model")
