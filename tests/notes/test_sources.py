"""`training.sources`: which files are selected, their sections, and that the strict policy holds."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, Document, read, sources
from dlm_trl.notes.check import check
from dlm_trl.notes.filters import _regex
from dlm_trl.notes.source_report import parts_table, source_parts

YAML = "src/.dlm/training.yaml"
IGNORE = "src/.dlm/ignore"
V1 = "dlm_training_version: 1\n"


def notes(folder: Path, path: str = "./src", entry: str = "", policy: str = "permissive") -> Document:
    """A document in this folder with one source."""
    head = f"dlm_id: 01JTRX0000000000000000000A\nbase_model: tiny\ntraining:\n  sources_policy: {policy}\n  sources:\n"
    text = f"---\n{head}    - path: {path}\n{textwrap.indent(entry, '      ')}\n---\nProse.\n"
    (folder / "notes.dlm").write_text(text, encoding="utf-8")
    return read(folder / "notes.dlm")


def fill(folder: Path, files: dict[str, str | bytes]) -> None:
    (folder / "src").mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def names(document: Document) -> list[str]:
    return [file.name for file in sources.source_files(document)]


def test_a_text_file_becomes_a_prose_section_after_the_documents_own(tmp_path: Path) -> None:
    fill(tmp_path, {"src/sub/b.md": "\ufeffB\r\nb\r", "src/a.md": "::instruction::\nno fence here", "src/blank": ""})
    document = notes(tmp_path)
    expanded = sources.expand(document)
    assert expanded.sections[:1] == document.sections
    assert [section.content for section in expanded.sections[1:]] == [
        "# source: a.md\n\n::instruction::\nno fence here",
        "# source: blank\n\n",
        "# source: sub/b.md\n\nB\nb\n",
    ]
    assert {section.kind for section in expanded.sections} == {"prose"}
    assert expanded.sections[3].path == tmp_path / "src/sub/b.md"
    spans = [expanded.raw[slice(*section.span)] for section in expanded.sections]
    assert expanded.raw[: expanded.body_start] + b"".join(spans) == expanded.raw


def test_no_sources_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "n.dlm").write_text("---\ndlm_id: 01JTRX0000000000000000000A\nbase_model: tiny\n---\nP\n")
    document = read(tmp_path / "n.dlm")
    assert sources.expand(document) == document


def test_the_walk_is_sorted_by_parts_and_takes_text_files_only(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"src/a/z": "1", "src/a.md": "1", "src/B": "1", "src/a-b": "1", "src/.hidden": "1"}
    fill(tmp_path, files | {"src/binary": b"a\0b", "src/latin": b"\xe9", "src/late_nul": b"x" * 2000 + b"\0"})
    os.mkfifo(tmp_path / "src" / "pipe")
    os.symlink("loop", tmp_path / "src" / "loop")
    assert names(notes(tmp_path)) == [".hidden", "B", "a/z", "a-b", "a.md", "late_nul"]


@pytest.mark.parametrize(
    ("entry", "taken"),
    [
        ("include: ['*.md']", ["a.md"]),
        ("include: ['**/*.md']", ["a.md", "s/b.md", "s/t/b.md"]),
        ("include: ['**/b.md']\nexclude: ['s/t/**']", ["s/b.md"]),
        ("exclude: ['s/**']", ["a.md", "c.txt"]),
        ("exclude: ['s']", ["a.md", "c.txt", "s/b.md", "s/t/b.md"]),
        ("include: []", []),
        ("max_files: 2", ["a.md", "c.txt"]),
        ("max_files: 2\nexclude: ['a.md']", ["c.txt", "s/b.md"]),
        ("max_bytes_per_file: 3", ["a.md", "s/b.md"]),
    ],
)
def test_the_options_of_an_entry(entry: str, taken: list[str], tmp_path: Path) -> None:
    fill(tmp_path, {"src/a.md": "A", "src/s/b.md": "B", "src/s/t/b.md": "deep", "src/c.txt": "four"})
    assert names(notes(tmp_path, entry=entry)) == taken


@pytest.mark.parametrize(
    ("ignore", "taken"),
    [
        ("b.md", ["a.md", "s/c.md"]),
        ("/b.md", ["a.md", "s/b.md", "s/c.md"]),
        ("s/", ["a.md", "b.md"]),
        ("/s", ["a.md", "b.md"]),
        ("a.md/", ["a.md", "b.md", "s/b.md", "s/c.md"]),
        ("*.md\n!b.md", ["b.md", "s/b.md"]),
        ("s/*\n!s/b.md", ["a.md", "b.md", "s/b.md"]),
        ("# b.md\n\n  a.md  \n!\n/", ["b.md", "s/b.md", "s/c.md"]),
        ("?.md\n!/s/", ["s/b.md", "s/c.md"]),
    ],
)
def test_ignore_files(ignore: str, taken: list[str], tmp_path: Path) -> None:
    fill(tmp_path, {IGNORE: ignore, "src/a.md": "", "src/b.md": "", "src/s/b.md": "", "src/s/c.md": ""})
    assert names(notes(tmp_path)) == taken


def test_an_ignore_file_can_reinclude_excluded_files(tmp_path: Path) -> None:
    fill(tmp_path, {IGNORE: "!*.pdf\n!node_modules/\n!a.md", "src/a.md": "", "src/b.md": "", "src/c.pdf": ""})
    fill(tmp_path, {"src/node_modules/x": "", "src/.env": ""})
    assert names(notes(tmp_path, entry="exclude: ['*.md']")) == ["a.md", "c.pdf", "node_modules/x"]


def test_deeper_files_win(tmp_path: Path) -> None:
    fill(tmp_path, {YAML: f"{V1}include: ['*.md', 'one.rst']\nexclude: ['**/no.txt']", "src/s/.dlm/ignore": "!/x.txt"})
    fill(tmp_path, {"src/s/.dlm/training.yaml": f"{V1}include: ['*.txt']\nexclude: ['x.txt', 'y.txt']"})
    fill(tmp_path, {f"src/{name}": "" for name in ("a.md", "a.txt", "one.rst", "s/a.md", "s/a.txt", "s/t/a.txt")})
    fill(tmp_path, {f"src/s/{name}": "" for name in ("x.txt", "y.txt", "no.txt")})
    # The nearest include list applies, excludes accumulate, ignore files come last.
    assert names(notes(tmp_path)) == ["a.md", "one.rst", "s/a.txt", "s/x.txt"]


@pytest.mark.parametrize(
    "name",
    [
        ".git/config",
        "s/.git/x",
        ".env",
        "s/.env.local",
        "key.pem",
        "id_rsa",
        ".ssh/x",
        ".venv/x",
        "s/node_modules/x/y",
        "build/x",
        "m.pyc",
        "poetry.lock",
        "a.tar.gz",
        "a.pdf",
        ".dlm/notes",
        "s/.dlm/x",
    ],
)
def test_the_built_in_excludes_apply_unless_disabled(name: str, tmp_path: Path) -> None:
    fill(tmp_path, {f"src/{name}": "text", "src/a.md": ""})
    assert names(notes(tmp_path)) == ["a.md"]
    fill(tmp_path, {YAML: f"{V1}exclude_defaults: false", "src/s/.dlm/training.yaml": f"{V1}metadata: {{a: b}}"})
    assert name in names(notes(tmp_path))


def test_tags_and_weights_are_merged_and_the_deepest_wins(tmp_path: Path) -> None:
    root = "metadata: {lang: en, q: hi}\nweights: {lang: {en: 2, de: 9}, q: {hi: 0.5}, other: {x: 7}}"
    fill(tmp_path, {YAML: V1 + root, "src/a": "", "src/s/b": "", "src/s/t/c": "", "src/u/d": ""})
    fill(tmp_path, {"src/s/.dlm/training.yaml": f"{V1}metadata: {{lang: de}}\nweights: {{lang: {{de: 3}}}}"})
    fill(tmp_path, {"src/u/.dlm/training.yaml": f"{V1}metadata: {{lang: fr, q: none}}"})
    document = notes(tmp_path)
    assert {s.path.name: dict(s.tags) for s in sources.expand(document).sections if s.tags and s.path} == {
        "a": {"lang": "en", "q": "hi"},
        "b": {"lang": "de", "q": "hi"},
        "c": {"lang": "de", "q": "hi"},
        "d": {"lang": "fr", "q": "none"},
    }
    weights = {path.name: weight for path, weight in sources.source_weights(document).items()}
    assert weights == {"a": 1.0, "b": 1.5, "c": 1.5, "d": 1.0}


def test_a_single_file_is_a_source_too(tmp_path: Path) -> None:
    fill(tmp_path, {"src/a.md": "A", YAML: f"{V1}metadata: {{a: b}}"})
    (section,) = sources.expand(notes(tmp_path, "./src/a.md")).sections[1:]
    assert (section.content, dict(section.tags)) == ("# source: a.md\n\nA", {"a": "b"})
    assert names(notes(tmp_path, "./src/a.md", "include: ['*.txt']")) == []


def test_a_document_in_a_dlm_folder_uses_its_parent(tmp_path: Path) -> None:
    fill(tmp_path, {"src/a.md": "A"})
    (tmp_path / ".dlm").mkdir()
    notes(tmp_path).path.rename(tmp_path / ".dlm" / "notes.dlm")  # type: ignore[union-attr]
    assert names(read(tmp_path / ".dlm" / "notes.dlm")) == ["a.md"]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "src"))
    fill(tmp_path, {"src/a.md": "A"})
    assert names(notes(tmp_path, "'~'")) == ["a.md"]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A folder for the document, next to one with a secret."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.txt").write_text("SECRET")
    inside = tmp_path / "house"
    inside.mkdir()
    fill(inside, {"src/a.md": "A", "other/o.md": "O"})
    return inside


@pytest.mark.parametrize(
    "path", ["..", "../secret", "../secret/s.txt", "src/../../secret", "leak", "src/leak.txt", "/"]
)
def test_strict_reads_nothing_outside(path: str, house: Path) -> None:
    (house / "leak").symlink_to("../secret")
    (house / "src" / "leak.txt").symlink_to("../../secret/s.txt")
    with pytest.raises(DlmError) as caught:
        sources.expand(notes(house, path, policy="strict"))
    assert caught.value.kind == "SourceError"


def test_strict_refuses_a_file_behind_a_link_in_the_walk(house: Path) -> None:
    (house / "src" / "dir").symlink_to("../../secret", target_is_directory=True)
    assert names(notes(house, policy="strict")) == ["a.md"]
    (house / "src" / "inside.md").symlink_to("../other/o.md")
    assert names(notes(house, policy="strict")) == ["a.md", "inside.md"]
    (house / "src" / "leak.txt").symlink_to("../../secret/s.txt")
    with pytest.raises(DlmError, match="outside"):
        sources.expand(notes(house, policy="strict"))
    assert names(notes(house, entry="exclude: ['leak.txt']", policy="strict")) == ["a.md", "inside.md"]


@pytest.mark.parametrize("link", ["training.yaml", "ignore", ""], ids=["training.yaml", "ignore", "folder"])
def test_strict_reads_no_filter_files_from_outside(link: str, house: Path) -> None:
    (house.parent / "secret" / "training.yaml").write_text(f"{V1}metadata: {{from: outside}}\n")
    (house.parent / "secret" / "ignore").write_text("*.md\n")
    if link:
        (house / "src" / ".dlm").mkdir()
    (house / "src" / ".dlm" / link).symlink_to(house.parent / "secret" / link)
    with pytest.raises(DlmError, match="outside"):
        sources.expand(notes(house, policy="strict"))
    sources.expand(notes(house, policy="permissive"))


def test_permissive_follows_any_path(house: Path) -> None:
    assert names(notes(house, "../secret")) == ["s.txt"]


@pytest.mark.parametrize("path", ["nowhere", "'~nobody_of_this_name/x'", '"a\\0b"', "pipe", "x" * 300])
def test_a_missing_path_is_an_error(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DlmError) as caught:
        sources.expand(notes(tmp_path, path))
    assert caught.value.kind == "SourceError"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "include: []",
            "dlm_training_version: 2",
            f"{V1}includes: [a]",
            ": [",
            f"{V1}metadata: {{a: 1}}",
            f'{V1}metadata: {{a: "\\ud83d"}}',
            b"\xff",
        ),
        *(f"{V1}weights: {{a: {{b: -1}}}}", f"{V1}weights: {{a: {{b: .inf}}}}"),
    ],
)
def test_a_broken_training_file_is_an_error_that_names_it(text: str | bytes, tmp_path: Path) -> None:
    fill(tmp_path, {YAML: text, "src/a": ""})
    with pytest.raises(DlmError) as caught:
        sources.expand(notes(tmp_path))
    assert (caught.value.kind, caught.value.path) == ("SourceError", tmp_path / YAML)


def test_unreadable_files_are_an_error_unless_excluded(tmp_path: Path) -> None:
    fill(tmp_path, {"src/a": "", "src/.dlm/other": ""})
    out_of_reach = "x" * 300  # too long a name, so that root can't read it either
    (tmp_path / "src" / "b").symlink_to(out_of_reach)
    with pytest.raises(DlmError, match="src/b: The file cannot be read"):
        sources.expand(notes(tmp_path))
    assert names(notes(tmp_path, entry="exclude: [b]")) == ["a"]
    (tmp_path / IGNORE).symlink_to(out_of_reach)
    with pytest.raises(DlmError, match=r"src/\.dlm/ignore: The file cannot be read"):
        sources.expand(notes(tmp_path, entry="exclude: [b]"))


def glob_matches(glob: str, path: str) -> bool:
    """A recursive definition of globs."""
    if not glob:
        return not path
    if glob.startswith("**/"):
        return glob_matches(glob[3:], path) or any(
            glob_matches(glob[3:], path[i + 1 :]) for i, c in enumerate(path) if c == "/"
        )
    if glob.startswith("**"):
        return any(glob_matches(glob[2:], path[i:]) for i in range(len(path) + 1))
    if glob.startswith("*"):
        ends = next((i for i, c in enumerate(path) if c == "/"), len(path))
        return any(glob_matches(glob[1:], path[i:]) for i in range(ends + 1))
    return (
        bool(path) and (path[0] == glob[0] or (glob[0] == "?" and path[0] != "/")) and glob_matches(glob[1:], path[1:])
    )


@given(
    st.lists(st.sampled_from(["**/", "a**b", "*", "?", "a", "b/", "[a]", "x/**", "."]), max_size=5).map("".join),
    st.text("ab/[.x", max_size=8),
)
def test_globs_match_their_definition(glob: str, path: str) -> None:
    # `**/` is only special at the start of a path component.
    plain = re.sub(r"(?<=[^/])\*\*(?=/)", "**", glob)
    if not re.search(r"[^/]\*\*/|\*\*\*", plain):
        assert bool(re.fullmatch(_regex(glob), path, re.DOTALL)) == glob_matches(glob, path)


def _plain_regex(glob: str) -> str:
    """The translation that is easy to check, and takes exponential time on some globs."""
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"(?:\A|(?<=/))\*\*/|\*\*|.", glob, re.DOTALL)
    return "".join("(?:.*/)?" if token.endswith("**/") else parts.get(token) or re.escape(token) for token in tokens)


@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**", "**/", "?"]), max_size=7).map("".join),
    st.text("ab/", max_size=9),
    st.sampled_from([("", ""), ("(?:.*/)?", "(?:/.*)?"), ("", "/.*")]),
)
def test_globs_match_what_the_plain_translation_matches(glob: str, path: str, around: tuple[str, str]) -> None:
    before, after = around
    found, plain = (
        re.fullmatch(before + regex + after, path, re.DOTALL) for regex in (_regex(glob), _plain_regex(glob))
    )
    assert (found is None) == (plain is None)


@pytest.mark.parametrize(
    ("glob", "path"),
    [("*a" * 40 + "*b", "a" * 2000), ("**/a/" * 12 + "b", "a/" * 500 + "c"), ("**a*a" * 12 + "b", "a" * 1000 + "c")],
)
def test_no_glob_hangs(glob: str, path: str) -> None:
    """In a process of its own: the plain translation would not end before the universe does."""
    program = (
        f"import re; from dlm_trl.notes.filters import _regex; print(re.fullmatch(_regex({glob!r}), {path!r}, re.S))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "None\n"


VAULT = {
    "src/garden.md": "The west pump is bled on Mondays.\n",
    "src/sub/roof.txt": "The roof opens at 27 degrees.\n",
    "src/README": "About the garden.\n",
    "src/.obsidian/plugins/x/main.js": "var a=1;" * 2_000,
    "src/.trash/old.md": "A note that was deleted.\n" * 20,
    "src/map.canvas": "{}" * 100,
    "src/sub/plan.SVG": "<svg/>" * 300,
}


def test_what_becomes_rows_is_counted_by_folder_and_kind(tmp_path: Path) -> None:
    fill(tmp_path, dict(VAULT))
    parts = source_parts(notes(tmp_path))
    assert [(part.folder, part.suffix, part.files) for part in parts[:3]] == [
        (".obsidian", ".js", 1),
        ("sub", ".SVG", 1),
        (".trash", ".md", 1),
    ]
    read_files = sources.source_files(notes(tmp_path))
    assert sum(part.characters for part in parts) == sum(len(file.text) for file in read_files)
    table = parts_table(parts).splitlines()
    assert "18," in table[0] and ".obsidian/**/*.js" in table[1] and "16,000" in table[1]


def test_a_vault_gets_a_hint_and_its_remedy_leaves_the_notes(tmp_path: Path) -> None:
    fill(tmp_path, dict(VAULT))
    notes(tmp_path)
    (hint,) = check(tmp_path / "notes.dlm")
    assert (hint.line, hint.rule, hint.is_hint) == (7, "sources-not-notes", True)
    assert " 82 are notes" in hint.message and ".obsidian/**/*.js (16,000)" in hint.message
    exclude = re.search(r"exclude: \[.*?\]", hint.fix)
    assert exclude
    cleaned = notes(tmp_path, entry=exclude[0])
    assert names(cleaned) == ["README", "garden.md", "sub/roof.txt"]
    assert check(tmp_path / "notes.dlm") == []


def test_notes_with_a_few_other_files_get_no_hint(tmp_path: Path) -> None:
    fill(tmp_path, {"src/a.md": "A note. " * 20, "src/b.csv": "1,2,3\n"})
    notes(tmp_path)
    assert check(tmp_path / "notes.dlm") == []


def test_check_reports_a_folder_whose_filters_are_broken(tmp_path: Path) -> None:
    fill(tmp_path, {"src/a.md": "A.", "src/sub/.dlm/training.yaml": "dlm_training_version: 2\n"})
    notes(tmp_path)
    assert [finding.rule for finding in check(tmp_path / "notes.dlm")] == ["SourceError"]
