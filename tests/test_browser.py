"""MLflow's own pages in a real browser, on a real store: what an analyst sees after `make train`."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import needs
from conftest import ROOT, SHRINK, experiment, sets

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]  # the first trains
TASKS = ("sector", "event_type", "sentiment")


@dataclass
class Seen:
    """The open pages, both models' runs, and every address that the browser asked for."""

    pages: Any
    baseline: Any
    camembert: Any
    asked: list[str]

    def text(self) -> str:
        return str(self.pages.page.inner_text("body"))


@pytest.fixture(scope="module")
def seen(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Train the baseline and a tiny CamemBERT, compare them, and open the pages of their store."""
    needs.package("playwright")
    needs.program("chromium")
    from presseco.__main__ import main
    from presseco.errors import NO

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        from screenshots import Pages, browser, served

        project = Path(shutil.copytree(template, tmp_path_factory.mktemp("browser") / "project"))
        patch.chdir(project)
        files = [experiment(project, name) for name in ("baseline", "camembert-mini")]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            assert main(["train", *files, *sets(SHRINK)]) == 0, printed.getvalue()
            assert main(["compare"]) in (0, NO), printed.getvalue()
        store = f"sqlite:///{project}/mlflow.db"
        with served(store, project / "mlartifacts") as url, browser() as page:
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            pages = Pages(page, url)
            runs = {r.data.params["kind"]: r for r in pages.models()}
            yield Seen(pages, runs["baseline"], runs["camembert"], asked)
    sys.modules.pop("screenshots", None)


def shown(value: float) -> str:
    """Return the digits of a metric that every page shows, however narrow its column."""
    return f"{value:.10f}"[:5]


def test_table_of_runs_has_names_and_scores_without_set_up(seen):
    seen.pages.runs()
    text = seen.text()
    for run in (seen.baseline, seen.camembert):
        assert run.info.run_name in text
        row = seen.pages.page.get_by_role("row").filter(has_text=run.info.run_name).first
        place = row.get_attribute("row-id")
        cells = seen.pages.page.locator(f"[row-id='{place}']").all_inner_texts()
        for key in ("test.macro_f1", *(f"test.{t}.macro_f1" for t in TASKS)):
            assert shown(run.data.metrics[key]) in " ".join(cells), key
    assert "Models, best first" in text
    assert "French business news" in text
    assert "2 matching runs" in text  # the parent has no scores of its own, and is not in the way


def test_compare_view_has_both_runs_side_by_side(seen):
    seen.pages.compare(seen.baseline, seen.camembert)
    text = seen.text()
    for run in (seen.baseline, seen.camembert):
        assert run.info.run_name in text
        value = run.data.metrics["test.sector.macro_f1"]
        # This page rounds to three places and drops zeros at the end: 0.0202 is 0.02.
        assert shown(value) in text or f"{value:.3f}".rstrip("0") in text
    assert "train_articles" in text


def test_run_page_tells_what_it_is(seen):
    seen.pages.run(seen.camembert)
    text = " ".join(seen.text().split())
    assert "camembert-mini · 110 articles · seed 1" in text
    assert "95 % bootstrap intervals in brackets" in text
    assert f"{seen.camembert.data.metrics['test.sector.macro_f1']:.3f} (" in text
    for word in ("purpose", "camembert", seen.camembert.data.tags["corpus"]):
        assert word in text
    assert seen.camembert.data.tags["role"] == "champion"
    assert "train · 110 articles" in text  # dataset and parent
    assert len(seen.camembert.data.params) <= 25 and len(seen.camembert.data.metrics) <= 60


@pytest.mark.parametrize("task", TASKS)
def test_confusion_matrix_is_a_picture(seen, task):
    image = seen.pages.picture(seen.camembert, f"confusion_{task}.png")
    width, height = image.evaluate("i => [i.naturalWidth, i.naturalHeight]")
    assert width > 300 and height > 300
    assert image.bounding_box()["width"] > 200


def test_report_is_read_in_the_artifact_pane(seen):
    frame = seen.pages.report(seen.camembert)
    assert frame.locator("h1").inner_text() == seen.camembert.info.run_name
    heads = frame.locator("h2").all_inner_texts()
    assert "What is taken for what" in heads and "Learning" in heads
    chart = frame.locator("svg").first
    assert chart.bounding_box()["width"] > 400
    assert "macro-F1" in chart.text_content()
    assert frame.locator("table").first.locator("tbody tr").count() == len(TASKS)
    frame.locator("summary", has_text="sector:").click()
    quoted = frame.locator("details[open] td").first
    assert len(quoted.inner_text()) > 40  # the beginning of an article


def test_comparison_is_read_in_the_artifact_pane(seen):
    name = f"baseline-{seen.baseline.info.run_id[:8]}.html"
    frame = seen.pages.report(seen.camembert, f"compare/{name}")
    assert frame.locator("h1").inner_text() == "camembert-mini against baseline"
    verdicts = frame.locator("table").first.locator("tbody td:last-child").all_inner_texts()
    assert set(verdicts) <= {"better", "worse", "no clear difference"} and len(verdicts) == 3
    assert "0.96" in frame.locator("table").first.inner_text()  # the annotators, beside the scores


def test_screenshot_is_small_and_shows_the_page(seen, tmp_path):
    from PIL import Image

    from screenshots import MAX_BYTES, shoot

    seen.pages.runs()
    path = shoot(seen.pages.page, tmp_path / "ui.png")
    assert 5_000 < path.stat().st_size <= MAX_BYTES
    with Image.open(path) as image:
        assert image.mode == "P" and len(image.getcolors()) > 8


def test_nothing_is_asked_of_a_network_by_what_we_log(seen):
    outside = [
        u for u in seen.asked if not u.startswith((seen.pages.url, "blob:", "data:", "about:"))
    ]
    ours = [u for u in outside if "mlflow" not in u and "databricks" not in u]
    assert not ours
