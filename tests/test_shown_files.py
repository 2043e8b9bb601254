"""The README and the documentation are correct: examples run; commands, files and links exist; generated tables are
complete. The demo's notes and questions match.
"""

import ast
import json
import re
import runpy
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pytest
import typer
import yaml

import dlm_trl
from dlm_trl.cli.main import app
from dlm_trl.export.steps import LIMITS
from dlm_trl.notes import parse, read
from dlm_trl.notes.check import check
from dlm_trl.notes.schema import Frontmatter
from dlm_trl.rows.convert import KINDS
from dlm_trl.synth.explain import CHECKS, SCORES
from dlm_trl.synth.prompts import read_prompt
from dlm_trl.synth.report import Counts
from dlm_trl.synth.watch import funnel_line

ROOT = Path(__file__).parent.parent
NOTES = ROOT / "recipes" / "notes.dlm"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(page for page in (ROOT / "examples").glob("*/README.md")),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "generated" not in page.parts),
]
SMALL_NOTES = """---
dlm_id: 01K9BREADW1THS0VRD0VGH2T3R
base_model: tiny
---
A starter is a mix of flour and water in which wild yeast and bacteria live.
"""


class Block(NamedTuple):
    """A fenced block of a page, with the line it starts on."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    matches = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in matches]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def shown(blocks: list[Block]) -> Any:
    return pytest.mark.parametrize("block", blocks, ids=[block.where for block in blocks])


def test_every_block_is_in_a_tested_language() -> None:
    assert {block.language for block in BLOCKS} == {"", "python", "bash", "yaml", "json", "jinja", "text"}
    untested = [block.where for block in blocks("") if not block.text.startswith("---\n")]
    assert len(untested) == 1, untested
    assert untested[0].startswith("CONTRIBUTING.md")  # the map of rooms


def test_shown_outputs_use_the_words_of_the_program() -> None:
    """They are copied from a run, which is too long for a test; this notices when a text or a score changes."""
    outputs = [" ".join(block.text.split()) for block in blocks("text") if block.page.name == "synthesis.md"]
    dry_run, run, report, pairs, explanation = outputs
    assert "72 sentences, 205 requests: one for each way to ask; the best question counts." in dry_run
    assert funnel_line(Counts(generated=72, question=24, leak=2, duplicate=19, judge=2, kept=14)) in run
    assert "stage pairs reason for example" in report
    scores = dict(re.findall(r"(\w+) (-?\d\.\d\d)", pairs))
    assert list(scores) == [name for name in SCORES if name != "ending"]  # not measured for a sentence
    assert all(
        f"{name} {value} " in explanation and f" {SCORES[name]}" in explanation for name, value in scores.items()
    )
    assert all(f"{name} {text}" in explanation for name, text in CHECKS.items() if name not in ("answer", "prose"))


@shown([block for block in blocks("") if block.text.startswith("---\n")])
def test_shown_documents_are_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "shown.dlm"
    file.write_text(block.text, encoding="utf-8")
    assert parse(block.text).sections
    assert check(file) == []


def test_the_readmes_document_has_prose_and_a_pair() -> None:
    (example,) = (block for block in blocks_of(ROOT / "README.md") if block.text.startswith("---\n"))
    document = parse(example.text)
    assert [section.kind for section in document.sections] == ["prose", "instruction"]
    assert document.sections[1].pairs()[0].answer == "A rest of flour and water before the salt goes in."


def test_the_shown_task_equals_the_recipe() -> None:
    shown = next(block.text for block in blocks("python") if "class Naming" in block.text)
    assert (ROOT / "recipes" / "naming.py").read_text(encoding="utf-8").endswith(shown)
    assert len(shown.split("class Naming")[1].splitlines()) <= 30


@shown(blocks("python"))
def test_shown_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("recipes/notes.dlm", "notes/one.dlm", "my_notes/one.dlm", "a.dlm", "b.dlm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(NOTES, tmp_path / name)
    (tmp_path / "notes.dlm").write_text(SMALL_NOTES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    exec(compile(block.text, block.where, "exec"), {})


@shown(blocks("yaml"))
def test_shown_yaml_has_known_keys(block: Block) -> None:
    values = yaml.safe_load(block.text)
    if not values.keys() <= settings():
        Frontmatter.model_validate({"dlm_id": parse(SMALL_NOTES).frontmatter.dlm_id, "base_model": "tiny", **values})


@shown(blocks("yaml"))
def test_shown_settings_have_valid_values(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not yaml.safe_load(block.text).keys() <= settings():
        pytest.skip("frontmatter")
    from dlm_trl.models.load import load_tokenizer
    from dlm_trl.tasks.load import load_tasks, read_stages
    from dlm_trl.train.config import read_configuration

    monkeypatch.chdir(tmp_path)
    Path("notes.dlm").write_text(SMALL_NOTES, encoding="utf-8")
    Path("shown.yaml").write_text(block.text, encoding="utf-8")
    task = read_configuration(["--config", "shown.yaml", "--base_model", "tiny"]).task
    if task.task:
        load_tasks(task.task, read_stages(task.stages), tokenizer=load_tokenizer("tiny"))


@shown(blocks("json"))
def test_shown_json_lines_are_valid_questions(block: Block, tmp_path: Path) -> None:
    from dlm_trl.evaluation.questions_file import read_questions

    file = tmp_path / "questions.jsonl"
    file.write_text(block.text, encoding="utf-8")
    assert read_questions(str(file))


@shown(blocks("jinja"))
def test_shown_prompts_render(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "prompt.jinja"
    file.write_text(block.text, encoding="utf-8")
    read_prompt(file)


@shown(blocks("bash"))
def test_shown_commands_exist(block: Block) -> None:
    text = re.sub(r"\\\n\s*", " ", block.text)
    for command in re.split(r"\n|&&| \| ", text):
        if words := shlex.split(command, comments=True):
            check_command(words, block.where)


@pytest.mark.parametrize(
    "command",
    [
        "dlm-trl chek notes.dlm",
        "dlm-trl synth list --jsonn notes.dlm",
        "dlm-trl merge one two three",
        "dlm-trl train notes.dlm lora_q=3",
        "accelerate launch recipes/sft.py --config recipes/note.yaml",
        "accelerate launch recipes/sft.py --learnin_rate 1",
        "python benchmarks/judge.py --jugde hf:x",
        "pip install -e '.[bnbb]'",
        "make demos",
        "HEAD=a accelerate_configs/two_nodes.sh --confg recipes/notes.yaml",
        "sbatch --nodes 4 accelerate_configs/slurmy.sbatch",
        "dlmtrl check",
    ],
)
def test_a_wrong_command_is_detected(command: str) -> None:
    with pytest.raises(AssertionError):
        check_command(shlex.split(command), "here")


def check_command(words: list[str], where: str) -> None:
    """Assert that the program, verb, options and files of a command line exist, without running it."""
    while re.fullmatch(r"[A-Z]+=.*", words[0]):  # an environment variable
        words = words[1:]
    program, *rest = words
    folders = "recipes|benchmarks|scripts|accelerate_configs|tests|examples"
    missing = [word for word in rest if re.fullmatch(rf"({folders})/[\w./]+", word)]
    assert not [word for word in missing if not (ROOT / word).exists()], (where, missing)
    if program == "accelerate":
        check_launch(rest, where)
    elif program == "dlm-trl":
        check_verb(rest, where)
    elif program == "xargs":
        check_command([*rest[rest.index("dlm-trl") :], "the files from the pipe"], where)
    elif program in ("python", "python3") and rest[0].endswith(".py"):
        check_script(rest, where)
    elif program == "sbatch" or program.endswith(".sh"):
        script = next(word for word in words if word.startswith("accelerate_configs/"))
        assert (ROOT / script).is_file(), (where, script)
        check_script(["recipes/sft.py", *words[words.index(script) + 1 :]], where)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets), (where, rest)
    elif program in ("pip", "uv"):
        extras = project()["project"]["optional-dependencies"]
        named = [name for word in rest for part in re.findall(r"\[(.*)\]", word) for name in part.split(",")]
        assert set(named) <= set(extras), (where, named)
    else:
        known = ([program, "-m"], ["vllm", "serve"], ["source", ".venv/bin/activate"])
        assert words[:2] in known or program in ("touch", "find")
        assert program in ("python3", "vllm", "source", "touch", "find"), (where, program)


def check_launch(words: list[str], where: str) -> None:
    while words[0] == "launch" or words[0].startswith("--"):
        words = words[1 if words[0] == "launch" else 2 :]
    if words[:2] == ["-m", "dlm_trl"]:
        check_verb(words[2:], where)
    else:
        check_script(words, where)


def check_script(words: list[str], where: str) -> None:
    script, *rest = words
    assert (ROOT / script).is_file(), (where, script)
    options = [word.removeprefix("--") for word in rest if word.startswith("--")]
    if script in ("recipes/sft.py", "recipes/dpo.py"):
        assert {*options} <= {"config", *settings()}, (where, options)
    else:
        source = (ROOT / script).read_text(encoding="utf-8")
        names = {node.target.id for node in ast.walk(ast.parse(source)) if is_field(node)}  # type: ignore[attr-defined]
        assert not [name for name in options if name not in names and f'"--{name}"' not in source], (where, options)


def is_field(node: ast.AST) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def check_verb(words: list[str], where: str) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, (where, words)
        command, words = command.commands[words[0]], words[1:]
    options = {
        name: p for p in command.params if p.param_type_name == "option" for name in (*p.opts, *p.secondary_opts)
    }
    given: list[str] = []
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            assert word in options, (where, word)
            if not options[word].is_flag:
                next(rest)
        else:
            given.append(word)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    assert len(given) >= sum(p.required for p in arguments), (where, given)
    assert any(p.nargs == -1 for p in arguments) or len(given) <= len(arguments), (where, given)
    if command.name in ("train", "dpo"):
        assert {setting.partition("=")[0] for setting in given[1:]} <= {"config", *settings()}, (where, given)


def settings() -> set[str]:
    """Every setting of the recipes, by name."""
    from trl import DPOConfig, SFTConfig

    from dlm_trl.train import arguments

    owners = [owner for owner in vars(arguments).values() if isinstance(owner, type) and is_dataclass(owner)]
    return {f.name for owner in (*owners, SFTConfig, DPOConfig) for f in fields(owner)}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda file: file.name)
def test_recipes_set_only_existing_settings(file: Path) -> None:
    assert yaml.safe_load(file.read_text(encoding="utf-8")).keys() <= settings()


def test_the_docs_list_every_kind_of_row() -> None:
    table = (ROOT / "docs" / "dataset.md").read_text(encoding="utf-8").split("| name | rows |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:]))) == set(KINDS)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that scripts/docs_pages.py writes."""
    out = tmp_path_factory.mktemp("generated")
    runpy.run_path(str(ROOT / "scripts" / "docs_pages.py"))["main"](out)
    return out


def test_the_table_of_limits_is_complete(generated: Path) -> None:
    rows = (generated / "tables" / "limits.md").read_text(encoding="utf-8").strip().splitlines()[2:]
    assert rows == [f"| {limit.step} | {limit.name} | {limit} | {limit.failing} |" for limit in LIMITS]


def test_the_table_of_settings_is_complete(generated: Path) -> None:
    from dlm_trl.train import arguments

    rows = re.findall(
        r"^\| `(\w+)` \| (.+) \| (.+) \| (.{10,}) \|$", (generated / "tables/settings.md").read_text(), re.M
    )
    owners = [owner for owner in vars(arguments).values() if isinstance(owner, type) and is_dataclass(owner)]
    inherited = {
        owner: {f.name for base in owner.__bases__ if is_dataclass(base) for f in fields(base)} for owner in owners
    }
    assert [name for name, *_ in rows] == [
        f.name for owner in owners for f in fields(owner) if f.name not in inherited[owner]
    ]
    assert ("lora_r", "integer", "`32`") in [row[:3] for row in rows]


def test_the_command_reference_has_every_verb(generated: Path) -> None:
    shown = re.findall(r"^## dlm-trl (.+)$", (generated / "tables/cli.md").read_text(), re.M)
    assert {verb.split()[0] for verb in shown} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_generated_table_is_on_a_page(generated: Path) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    included = set(re.findall(r'^--8<-- "docs/generated/tables/(\w+\.md)"$', pages, re.M))
    assert included == {file.name for file in (generated / "tables").iterdir()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_link_targets_exist(page: Path, generated: Path) -> None:
    for target in links(page):
        path = (page.parent / target).resolve()
        written = path.parent == ROOT / "docs" / "generated"
        assert (generated / path.name if written else path).exists(), target


def links(page: Path) -> Iterator[str]:
    """The relative links of a page, without anchors. mkdocs checks the anchors in docs/."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target) and (path := target.partition("#")[0]):
            yield path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    new = set(re.findall(r"`([^`]+)` \(new", text))  # files that CONTRIBUTING says you would add
    named = set(re.findall(r"\b(?:recipes|accelerate_configs|benchmarks|dlm_trl|scripts|tests)/[\w/.]*\.\w+", text))
    assert not [name for name in named - new if not (ROOT / name).is_file()]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 9_000


def test_metadata_files_agree() -> None:
    metadata = project()["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == metadata["version"] == dlm_trl.__version__
    assert citation["license"] == metadata["license"]
    assert citation["authors"] == metadata["authors"]
    assert (ROOT / "dlm_trl" / "py.typed").is_file()


def test_the_docs_tools_are_pinned() -> None:
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    wanted = {re.split(r"[>=]", each)[0] for each in project()["project"]["optional-dependencies"]["docs"]}
    assert wanted
    assert wanted <= pinned


def test_pre_commit_runs_the_commands_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe
    linted = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == linted


def test_the_demos_notes_are_valid_and_large_enough() -> None:
    document = read(NOTES)
    prose = [section for section in document.sections if section.kind == "prose"]
    pairs = [pair for section in document.sections if section.kind == "instruction" for pair in section.pairs()]
    assert check(NOTES) == []
    assert len(prose) >= 10
    assert len(pairs) >= 40
    assert len({pair.question for pair in pairs}) == len(pairs)


def test_every_pair_of_the_demo_has_an_untrained_reworded_question() -> None:
    trained = {
        pair.question: pair.answer
        for section in read(NOTES).sections
        if section.kind == "instruction"
        for pair in section.pairs()
    }
    lines = (ROOT / "recipes" / "notes_questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [row for line in lines if "reworded" in (row := json.loads(line))]
    assert {row["question"]: row["answer"] for row in questions} == trained
    assert len({row["reworded"] for row in questions}) == len(questions)
    assert not {row["reworded"] for row in questions} & trained.keys()
