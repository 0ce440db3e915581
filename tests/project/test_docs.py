"""The documentation is correct: its Python runs, its commands and links refer to what exists."""

import re
import runpy
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_unlearn import UnlearnConfig, cli
from hf_unlearn.data.images import ImageArguments
from hf_unlearn.data.speech import SpeechArguments
from hf_unlearn.data.speech.speech_arguments import SpeechClassArguments
from hf_unlearn.experiments.images.options import ImageRecipeArguments
from hf_unlearn.experiments.speech.class_options import SpeechClassRecipeArguments
from hf_unlearn.experiments.speech.options import CtcArguments, WhisperArguments
from hf_unlearn.experiments.speech.tiny_whisper import (
    build_model,
    build_processor,
    build_word_tokenizer,
)
from tests.benchmarks import architectures_page
from tests.support.helpers import ROOT
from tests.support.pictures import size_of_drawing

PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
RECIPES = sorted((ROOT / "recipes").glob("*/*.md"))
CARDS = [page for page in (ROOT / "model_cards").glob("*.md") if page.name != "template.md"]
# of all recipes
OPTIONS = {"help"} | {
    field.name
    for kind in (
        UnlearnConfig,
        CtcArguments,
        ImageArguments,
        ImageRecipeArguments,
        SpeechArguments,
        SpeechClassArguments,
        SpeechClassRecipeArguments,
        WhisperArguments,
    )
    for field in fields(kind)
}
MAKE = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language; of "", those that name none."""
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [block for name, block in fenced if name == language]


def write_what_the_readme_loads(folder: Path) -> dict[str, str]:
    """Writes a tiny Whisper and noise as speech; returns their paths by the README's names."""
    texts = ["red green", "blue", "go left", "stop"]
    processor = build_processor(build_word_tokenizer(texts), chunk_length=1)
    model = build_model(
        processor, d_model=16, layers=1, heads=2, init_std=0.1, max_target_positions=8
    )
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    noise = np.random.default_rng(0)
    lines = ["file_name,speaker,text"]
    (folder / "speech").mkdir()
    for number, text in enumerate(texts * 3):
        sound = 0.1 * noise.standard_normal(8000)
        soundfile.write(folder / "speech" / f"{number}.flac", sound, 16_000)
        lines.append(f"{number}.flac,{'alice' if number % 3 == 0 else 'bob'},{text}")
    (folder / "speech" / "train.csv").write_text("\n".join(lines))
    return {
        "path/to/your-whisper": str(folder / "model"),
        "path/to/speech": str(folder / "speech"),
    }


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem
)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replaced = write_what_the_readme_loads(tmp_path) if page == ROOT / "README.md" else {}
    names = {}
    for number, block in enumerate(blocks(page, "python")):
        for name, local in replaced.items():
            block = block.replace(name, local)
        # The untrained model has no word right from the start.
        block = re.sub(r'(_when="\w+ >=? )\d+', r"\g<1>1000", block)
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_refer_to_what_exists(page):
    commands = [
        line[2:]
        for block in blocks(page, "console")
        for line in re.sub(r"\\\n *", "", block).splitlines()
        if line.startswith("$ ")
    ]
    commands += re.findall(r"`((?:hf-unlearn|make) [^`<]+)`", page.read_text())
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "make":
            assert set(arguments) <= MAKE, command
        elif program == "hf-unlearn" and len(arguments) > 1:
            assert cli.build_parser().parse_known_args(arguments)[0].function, command
        elif program == "hf-unlearn":
            assert arguments[0] in cli.build_parser().format_help(), command
        if arguments[:1] == ["run"]:
            options = {word[2:].partition("=")[0] for word in arguments if word.startswith("--")}
            assert options <= OPTIONS, command
        if arguments[:1] == ["verify"] and "--steps" in arguments:
            # Runs record no digest of an earlier step.
            steps = int(arguments[arguments.index("--steps") + 1])
            assert steps >= WhisperArguments().digest_steps, command
        files = [
            word
            for word in arguments
            if re.fullmatch(r"(?:recipes|docs|tests)/[\w./-]+\.(?:yaml|py)", word)
        ]
        assert all((ROOT / file).is_file() for file in files), command


@pytest.mark.parametrize(
    "page", [*PAGES, *RECIPES, ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_lines_are_short_enough_to_read(page):
    # Rows of tables and words, such as links, cannot be broken.
    lines = [line for line in page.read_text().splitlines() if not line.startswith("|")]
    assert not [line for line in lines if len(line) > 140 and " " in line.strip()]


@pytest.mark.parametrize(
    "folder",
    sorted({file.parent for file in (ROOT / "recipes").glob("*/*.yaml")}),
    ids=lambda folder: folder.name,
)
def test_pages_of_a_recipe_name_its_configurations(folder):
    text = "".join(page.read_text() for page in folder.glob("*.md"))
    named = set(re.findall(r"[\w-]+\.yaml", text))
    assert not {file.name for file in folder.glob("*.yaml")} - named


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_console_blocks(page):
    # Only there are they checked.
    text = "".join(blocks(page, "") + blocks(page, "bash") + blocks(page, "sh"))
    assert not re.findall(r"^\s*(?:\$ )?(?:hf-unlearn|python) .*", text, re.M)


@pytest.mark.parametrize(
    "page", [*PAGES, *RECIPES, *CARDS], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    local = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert not [link for link in local if not (page.parent / link).exists()]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_are_headings(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", text)
    targets = [((page.parent / file).resolve() if file else page, name) for file, name in links]
    assert not [
        name for file, name in targets if file.suffix == ".md" and name not in anchors(file)
    ]


def test_every_page_is_in_the_table_of_contents():
    contents = (ROOT / "docs" / "README.md").read_text()
    assert not [
        page.name
        for page in (ROOT / "docs").glob("*.md")
        if page.name != "README.md" and page.name not in contents
    ]


def test_the_api_reference_is_what_the_docstrings_say():
    written = runpy.run_path(str(ROOT / "docs" / "api.py"))["page"]()
    assert written == (ROOT / "docs" / "api.md").read_text(), (
        "a docstring or signature has changed: run `make docs`"
    )


def test_the_table_of_architectures_is_what_was_measured():
    rows = architectures_page.read()
    assert architectures_page.page(rows) == architectures_page.PAGE.read_text()
    assert not [row for row in rows if row["how"].startswith("wrong")]


def test_the_figure_is_drawn(tmp_path):
    runpy.run_path(str(ROOT / "docs" / "projection.py"))["draw"](tmp_path / "figure.png")
    size = size_of_drawing(tmp_path / "figure.png")
    assert size == size_of_drawing(ROOT / "docs" / "projection.png")
