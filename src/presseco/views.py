"""MLflow's pages, ready to read: the experiment's kind and description, and saved views of its runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from presseco.table import HUMAN

#: Tag of a run whose model is registered: champion, challenger or former champion.
ROLE = "role"
#: What MLflow 3.17 calls the settings of a saved view, one experiment tag a view.
_VIEW = "mlflow.sharedViewState."
#: Moment that all views carry (milliseconds): a view that did not change is not written again.
_MADE = 1_790_000_000_000
_NAME, _DATASET, _STARTED = "attributes.`Run Name`", "attributes.`Dataset`", "attributes.start_time"
#: Pixels; all other columns hold a number or a word.
_WIDTHS = {_NAME: 270, _DATASET: 220, "runDateAndNestInfo": 130, "tags.`role`": 95}
#: The view that `make ui` opens.
START = "models"
_DESCRIPTION = """**French business news, sorted by sector, event type and sentiment.**

- Open *Views* (top right): **Models, best first** has one line a trained model; **Trainings** groups
  them under the command that made them; **Searches and curves** has tuning, ablations and curves.
- A run's description has its table; its artifact `report.html` has labels, calibration and mistakes;
  `compare/` what `make compare` found against another run.
- `test.*` is measured on articles of writers that training never saw, with 95 % bootstrap intervals
  (`_low`, `_high`); `coverage` is the share answered at the threshold for 5 % risk.
"""


def prepare_pages(client: MlflowClient, experiment: str) -> None:
    """Write the experiment's kind, description and views, where they are not as they should be."""
    found = client.get_experiment_by_name(experiment)
    wanted = {
        # Without it the pages open as those of an application with traces and prompts.
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": _DESCRIPTION,
        "mlflow.experiment.primaryMetric.name": "test.macro_f1",
        **{_VIEW + key: json.dumps(view) for key, view in views().items()},
    }
    for key, value in wanted.items():
        # A description that somebody wrote stays; a view of ours is brought up to date.
        kept = key == "mlflow.note.content" and key in found.tags
        if not kept and found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)


def views() -> dict[str, dict[str, Any]]:
    """Return the saved views by their key in the address (`?viewStateShareKey=…`)."""
    scores = ["test.macro_f1", *(f"test.{task}.macro_f1" for task in HUMAN)]
    cost = ["docs_per_second", "megabytes", "minutes"]
    return {
        START: _view(
            "Models, best first",
            "tags.purpose = 'train' and params.kind != 'none'",  # parents have no kind
            "metrics.`test.macro_f1`",
            [*_metrics(scores), f"tags.`{ROLE}`", *_metrics(cost), _DATASET],
        ),
        "trainings": _view("Trainings", "", _STARTED, ["tags.`purpose`", *_metrics(scores)]),
        "searches": _view(
            "Searches and curves",
            "tags.purpose != 'train' and tags.purpose != 'reproduce'",
            _STARTED,
            ["tags.`purpose`", *_metrics(["validation.macro_f1", *scores[1:]])],
        ),
    }


def _metrics(names: Sequence[str]) -> list[str]:
    return [f"metrics.`{n}`" for n in names]


def _view(name: str, query: str, order: str, columns: list[str]) -> dict[str, Any]:
    """Return a view as MLflow stores it: its columns from the left, its rows from the top."""
    shown = [_NAME, *columns, "runDateAndNestInfo", "duration"]
    state = {
        "searchFilter": query,
        "orderByKey": order,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": shown,
        "columnWidths": {c: _WIDTHS.get(c, 150) for c in shown},
    }
    return {"name": name, "createdAt": _MADE, "updatedAt": _MADE, "state": json.dumps(state)}


def address(base: str, experiment_id: str, view: str = START) -> str:
    """Return the link to the runs of an experiment in one of its views."""
    return (
        f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&viewStateShareKey={view}"
    )


def main() -> None:
    """Print the link to the models of the store of the current project folder."""
    from presseco import tracking  # it prepares the pages with this module

    base, experiment = (sys.argv[1:] + ["http://127.0.0.1:5000", "presseco"][len(sys.argv) - 1 :])[
        :2
    ]
    tracking.connect(Path.cwd(), experiment)
    found = MlflowClient().get_experiment_by_name(experiment)
    print(f"the models, best first: {address(base, found.experiment_id)}", flush=True)


if __name__ == "__main__":
    main()
