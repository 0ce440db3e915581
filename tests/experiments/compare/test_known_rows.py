"""What a comparison has run is not run again: its own cells, rows of another machine, and the rows
that the recipes keep."""

from dataclasses import replace
from pathlib import Path

import pytest

from hf_unlearn import METHODS
from hf_unlearn.experiments.compare import Comparison, compare
from tests.experiments.compare.conftest import rows_of
from tests.recipes.configurations import COMPARISONS
from tests.support.helpers import ROOT


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_files_of_the_recipes_are_understood_and_documented(file):
    comparison = Comparison.read(file)
    assert (ROOT / comparison.recipe).is_file() and (ROOT / comparison.config).is_file()
    assert set(comparison.methods) <= set(METHODS)
    assert file.name in pages_beside(file)


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_committed_rows_give_the_numbers_of_the_readme_without_a_run(
    file, tmp_path, monkeypatch
):
    comparison = Comparison.read(file)
    if comparison.known is None:
        pytest.skip("its runs are not kept by cell")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "hf_unlearn.experiments.compare.runs.run_cell",
        lambda cell, _: pytest.fail(f"{cell} is not among the rows"),
    )
    by_method, *_, in_pairs = compare(replace(comparison, output_dir=str(tmp_path))).split("\n\n")
    heading, _, *lines = by_method.splitlines()
    readme = pages_beside(file).replace("*", "").splitlines()
    for line in lines:
        row = dict(zip(cells_of(heading), cells_of(line)))
        keys = [row[name] for name in (*comparison.vary, "method")]
        wanted = [*row["reached"].split(", "), *(row[name] for name in comparison.scores)]
        same = [cells for cells in map(cells_of, readme) if cells[: len(keys)] == keys]
        assert any(set(wanted) <= set(cells) for cells in same), (wanted, same)
    # The other recipes' pages do not show the pairs.
    if file.parent.name == "whisper_librispeech":
        heading, _, *lines = map(cells_of, in_pairs.splitlines())
        table = list(map(cells_of, readme))
        assert lines and not [cells for cells in [heading, *lines] if cells not in table]


def pages_beside(file: Path) -> str:
    """The recipe's page, and those that it links to."""
    return "\n".join(page.read_text() for page in sorted(file.parent.glob("*.md")))


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("*", "").strip("|").split("|")]


def test_what_is_done_is_not_done_again(comparison):
    _, output = comparison()
    done = next(path for path in output.rglob("results.json"))
    lost = next(path for path in output.rglob("results.json") if path != done)
    lost.unlink()
    before = rows_of(output)
    comparison()
    assert (done.parent / "runs").read_text() == "run\n"
    assert (lost.parent / "runs").read_text() == "run\nrun\n"
    assert rows_of(output) == before


def test_rows_of_another_machine_are_not_run_again(comparison, tmp_path):
    few = {"vary": {"size": [48]}, "match": {"forget_wer": [30, 70]}, "seeds": [1]}
    _, there = comparison(**few)
    rows, kept = rows_of(there), tmp_path / "rows.csv"
    (there / "runs.csv").rename(kept)
    comparison(**few, known=str(kept), output_dir=str(tmp_path / "here"))
    assert rows_of(tmp_path / "here") == rows
    assert (tmp_path / "here" / "table.md").read_text() == (there / "table.md").read_text()
    assert {path.parent.name for path in (tmp_path / "here").rglob("log.txt")} == {
        f"anna-{row['cell']}"
        for row in rows
        # a failed run may succeed on another machine
        if row["ended"] == "failed"
    }
    assert (tmp_path / "here" / "frontier.png").read_bytes() == (
        there / "frontier.png"
    ).read_bytes()

    comparison(
        **few, known=str(kept), output_dir=str(tmp_path / "there"), options={"model": "another"}
    )
    assert len(list((tmp_path / "there").rglob("log.txt"))) == len(rows)


def test_where_all_rows_are_known_nothing_is_run(comparison, tmp_path):
    here, match = tmp_path / "new" / "here", {"forget_wer": [30]}
    few = {
        "methods": {"orthograd": [{"alpha": 0.6}]},
        "vary": {"size": [48]},
        "seeds": [1],
        "match": match,
    }
    _, there = comparison(**few)
    code, _ = comparison(**few, known=str(there / "runs.csv"), output_dir=str(here))
    assert code == 0 and {path.name for path in here.iterdir()} == {
        "runs.csv",
        "table.md",
        "frontier.png",
    }
    assert (here / "runs.csv").read_text() == (there / "runs.csv").read_text()


def test_rows_without_their_cells_are_refused(comparison, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("phase,method,ended\ntune,orthograd,max_steps\n")
    code, _ = comparison(known=str(tmp_path / "rows.csv"))
    assert code == 1 and "has no column cell, curve, test_wer" in capsys.readouterr().err
    code, _ = comparison(known=str(tmp_path / "none.csv"))
    assert code == 1 and "none.csv" in capsys.readouterr().err
