"""Screenshots of MLflow's pages for the docs: `python scripts/screenshots.py --store mlflow.db`.

Needs `pip install -e '.[browser]'` and a Chromium (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from presseco.errors import PressecoError, StoreError
from presseco.views import address, prepare_pages

#: What a headless browser in a container needs, and what keeps it from asking for updates.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SIZE = {"width": 1440, "height": 810}
#: Pixels down for what is taller than wide: a confusion matrix, a report.
TALL = 1120
#: Seconds: the pages take 1 to 3 on a free core, ten times that on a busy one.
PATIENCE = 180.0
#: A picture in the docs is no larger; colours are cut until it fits.
MAX_BYTES = 150_000
#: The pages' own assistant, which opens over the right third at the first visit.
_NO_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
"""


# Where the files lie on the machine that took the picture is nobody's business.
_NO_PLACE = """
[...document.querySelectorAll("div,span")]
  .filter(e => /^Path:\\s*(file|mlflow-artifacts):/.test(e.textContent))
  .forEach(e => { e.style.visibility = "hidden"; })
"""


@contextmanager
def served(store: str, artifacts: Path) -> Iterator[str]:
    """Serve a store as `make ui` does, on a free port; yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", store, "--default-artifact-root", str(artifacts)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, server)
            yield url
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(round(PATIENCE / 0.25)):
        if server.poll() is not None:
            raise StoreError(f"mlflow server ended with {server.returncode}; try `make ui`")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise StoreError(f"mlflow server does not answer at {url} after {PATIENCE:.0f} s")


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a page of Chromium with a fresh profile that reaches 127.0.0.1 only."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        raise PressecoError("no chromium found; on Debian: apt-get install -y chromium")
    with sync_playwright() as p, tempfile.TemporaryDirectory() as profile:
        context = p.chromium.launch_persistent_context(
            profile, executable_path=program, args=FLAGS, headless=True, viewport=SIZE
        )
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(f"try {{ {_NO_ASSISTANT} }} catch {{}}")
        context.route("**/*", _stay_here)
        yield context.pages[0]
        context.close()


def _stay_here(route: Any) -> None:
    if route.request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
        route.continue_()
    else:
        route.abort()


class Pages:
    """The pages of one experiment, opened one by one; each method returns when it can be seen."""

    def __init__(self, page: Any, url: str, experiment: str = "presseco") -> None:
        self.page, self.url = page, url
        self.client = MlflowClient(url)
        prepare_pages(self.client, experiment)
        self.experiment = self.client.get_experiment_by_name(experiment).experiment_id

    def models(self) -> list[Any]:
        """Return the trained models' runs, newest training first."""
        query = "tags.purpose = 'train' and attributes.status = 'FINISHED'"
        runs = self.client.search_runs([self.experiment], query)
        return [r for r in runs if "kind" in r.data.params]

    def runs(self) -> None:
        """Open the table of runs in the view that `make ui` opens."""
        self._go(address(self.url, self.experiment))
        for run in self.models()[:2]:
            self.page.get_by_text(run.info.run_name).first.wait_for()
        self.page.get_by_role("columnheader", name="test.macro_f1").first.wait_for()
        shared = self.page.get_by_text("viewing a shared view")
        if shared.count():  # a note above the table: true, and in the way of a picture
            shared.first.locator("xpath=ancestor::*[.//button][1]").get_by_role(
                "button"
            ).last.click()

    def compare(self, a: Any, b: Any) -> None:
        """Open the compare view of two runs."""
        ids = json.dumps([a.info.run_id, b.info.run_id])
        self._go(
            f"{self.url}/#/compare-runs?runs={ids}&experiments={json.dumps([self.experiment])}"
        )
        self.page.get_by_text("Comparing 2 Runs").wait_for()
        self.page.get_by_text(b.info.run_name).first.wait_for()

    def run(self, run: Any) -> None:
        """Open a run's overview with its description."""
        self._go(f"{self.url}/#/experiments/{self.experiment}/runs/{run.info.run_id}")
        self.page.get_by_text("Description").first.wait_for()
        self.page.get_by_text("bootstrap intervals").first.wait_for()
        self.page.get_by_role("link", name="train · ").first.wait_for()  # its parent

    def picture(self, run: Any, name: str) -> Any:
        """Open a picture in the artifact pane; return its element."""
        self._artifact(run, name)
        image = self.page.locator("img[src^='blob:'], img[src*='get-artifact']").first
        image.wait_for()
        self.page.wait_for_function(
            "() => [...document.images].some(i => i.complete && i.naturalWidth > 200)"
        )
        return image

    def report(self, run: Any, name: str = "report.html") -> Any:
        """Open a report in the artifact pane; return the frame that shows it."""
        self._artifact(run, name)
        frame = self.page.frame_locator("iframe")
        frame.locator("h1").wait_for()
        return frame

    def _artifact(self, run: Any, name: str) -> None:
        self._go(
            f"{self.url}/#/experiments/{self.experiment}/runs/{run.info.run_id}/artifacts/{name}"
        )

    def _go(self, url: str) -> None:
        # A change after the # alone would keep what the last page had loaded.
        self.page.goto("about:blank")
        self.page.goto(url)


def shoot(page: Any, path: Path) -> Path:
    """Save what the page shows as a PNG of at most `MAX_BYTES`."""
    from PIL import Image

    page.wait_for_timeout(1500)  # animations of charts and menus
    page.evaluate(_NO_PLACE)
    image = Image.open(BytesIO(page.screenshot())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    for colors in (128, 64, 32, 16):
        image.quantize(colors, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return path
    raise PressecoError(f"{path}: {path.stat().st_size} bytes with 16 colours, over {MAX_BYTES}")


def take(store: str, artifacts: Path, target: Path, experiment: str = "presseco") -> list[Path]:
    """Take all screenshots of a store with a baseline and a CamemBERT; return their paths."""
    with served(store, artifacts) as url, browser() as page:
        pages = Pages(page, url, experiment)
        kinds: dict[str, Any] = {}
        for run in pages.models():
            kinds.setdefault(run.data.params["kind"], run)
        if not {"baseline", "camembert"} <= set(kinds):
            raise StoreError(f"{store}: no finished training of baseline and camembert; make train")
        a, b = kinds["baseline"], kinds["camembert"]
        steps = {
            "ui-runs.png": pages.runs,
            "ui-compare.png": lambda: pages.compare(a, b),
            "ui-run.png": lambda: pages.run(b),
            "ui-confusion.png": lambda: pages.picture(b, "confusion_sector.png"),
            "ui-report.png": lambda: pages.report(b),
        }
        done = []
        for name, step in steps.items():
            height = TALL if name in ("ui-confusion.png", "ui-report.png") else SIZE["height"]
            page.set_viewport_size(SIZE | {"height": height})
            step()
            done.append(shoot(page, target / name))
            print(f"{done[-1]}: {done[-1].stat().st_size:,} bytes")
        return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="mlflow.db", help="SQLite file or tracking URI")
    parser.add_argument("--output", type=Path, default=Path("docs/figures"))
    args = parser.parse_args()
    store = args.store if "://" in args.store else f"sqlite:///{Path(args.store).resolve()}"
    try:
        take(store, Path(args.store).resolve().parent / "mlartifacts", args.output)
    except PressecoError as e:
        print(f"screenshots: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
