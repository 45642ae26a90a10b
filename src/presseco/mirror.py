"""Copy the runs of a store on disk to a server: everything, once, however often it is cut off.

What was sent is kept in a ledger beside the store, one line a thing. An answer that was lost on the
way is no harm: runs, models and versions carry a tag `spool` with their number on disk and are looked
for before they are made, metrics are rows with a key, and all else is set to the same value again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from presseco.files import write_text
from presseco.server import without_secret
from presseco.views import ROLE, prepare_pages

#: Tag of a server's run, model or version: the number that it has in the store on disk.
SPOOL = "spool"
_PARENT = "mlflow.parentRunId"
_VERSIONS = "mlflow.modelVersions"
#: The most of each that the REST API takes in one request.
_BATCH = 100
_METRICS = 1000
T = TypeVar("T")


class Ledger:
    """What is on the server already: keys such as `run:<id>` with the server's own number.

    Append-only; a last line cut off by a kill is ignored, and its thing is sent again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sent: dict[str, str] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, value = json.loads(line)
                except ValueError:
                    continue
                self.sent[key] = value

    def keep(self, key: str, value: str = "") -> str:
        """Write one thing down; return its value."""
        self.sent[key] = value
        with self.path.open("a", encoding="utf-8") as f:
            # A line of its own even after half a line.
            f.write(f"\n{json.dumps([key, value])}\n")
        return value


class Mirror:
    """One store on disk and its copy on a server, brought up to date by `send`.

    `send` is for one thread at a time; `remote_id` may be called beside it.
    """

    def __init__(self, local: str, server: str, experiment: str, ledger: Ledger) -> None:
        self.address = server
        self.local = MlflowClient(local, registry_uri=local)
        self.server = MlflowClient(server, registry_uri=server)
        self.experiment = experiment
        self.ledger = ledger
        self._creating = threading.RLock()
        self._place: str | None = None
        self._seen: dict[str, set[Any]] = {}

    @property
    def page(self) -> str:
        """Return the address of the experiment's page on the server."""
        return f"{without_secret(self.address).rstrip('/')}/#/experiments/{self._experiment()}"

    def waiting(self) -> list[str]:
        """Return the runs of the store that are not, or not wholly, on the server, children first."""
        runs = (r.info.run_id for r in self._runs())
        return [i for i in runs if f"done:{i}" not in self.ledger.sent]

    def send(self) -> int:
        """Send what is new; return how many runs are now complete that were not before.

        Running runs get their params, tags and metrics; files and models follow when a run has
        ended, and its status last. Raises what mlflow raises when the server is away or refuses.
        """
        return sum(self._send_run(i) for i in self.waiting())

    def remote_id(self, run_id: str) -> str:
        """Return the server's number of a run, which is created there if need be."""
        with self._creating:
            known = self.ledger.sent.get(f"run:{run_id}")
            return known or self.ledger.keep(f"run:{run_id}", self._create(run_id))

    def _create(self, run_id: str) -> str:
        place = self._experiment()
        found = self.server.search_runs([place], f"tags.{SPOOL} = '{run_id}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = self.local.get_run(run_id)
        tags = self._tags(run)
        made = self.server.create_run(
            place, start_time=run.info.start_time, tags=tags, run_name=run.info.run_name
        )
        return str(made.info.run_id)

    def _experiment(self) -> str:
        if self._place is None:
            found = self.server.get_experiment_by_name(self.experiment)
            self._place = str(found.experiment_id if found else self._create_experiment())
            prepare_pages(self.server, self.experiment)
        return self._place

    def _create_experiment(self) -> str:
        try:
            return str(self.server.create_experiment(self.experiment))
        except MlflowException as e:
            if e.error_code != "RESOURCE_ALREADY_EXISTS":  # another training was faster: as good
                raise
            return str(self.server.get_experiment_by_name(self.experiment).experiment_id)

    def _runs(self) -> Iterator[Any]:
        found = self.local.get_experiment_by_name(self.experiment)
        token: str | None = None
        while found:
            page = self.local.search_runs(
                [found.experiment_id], order_by=["attributes.start_time DESC"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _tags(self, run: Any) -> dict[str, str]:
        tags = dict(run.data.tags) | {SPOOL: run.info.run_id}
        tags.pop(ROLE, None)  # champion among the server's versions, not among those on disk
        if parent := tags.get(_PARENT):
            tags[_PARENT] = self.remote_id(parent)
        return tags

    def _send_run(self, run_id: str) -> bool:
        # The status is read first: what a run logs after it was read goes with the next pass.
        run = self.local.get_run(run_id)
        there = self.remote_id(run_id)
        self._send_values(run, there)
        if run.info.status == "RUNNING":
            return False
        self._send_files(run, there)
        for model in self._models(run):
            self._send_model(model, run, there)
        self._send_versions(run, there)
        self._drop_error(run, there)
        self.server.set_terminated(there, run.info.status, run.info.end_time)
        self.ledger.keep(f"done:{run_id}")
        return True

    def _send_values(self, run: Any, there: str) -> None:
        keys = run.data.metrics
        points = [m for k in keys for m in self.local.get_metric_history(run.info.run_id, k)]
        for metrics in self._new(there, points, _METRICS, _point):
            self.server.log_batch(there, metrics=metrics)
        every = [Param(k, v) for k, v in run.data.params.items()]
        for params in self._new(there, every, _BATCH, lambda p: ("param", p.key)):
            self.server.log_batch(there, params=params)
        labels = [RunTag(k, v) for k, v in self._tags(run).items()]
        for tags in self._new(there, labels, _BATCH, lambda t: ("tag", t.key, t.value)):
            self.server.log_batch(there, tags=tags)
        inputs = run.inputs.dataset_inputs if run.inputs else []
        for some in self._new(there, inputs, _BATCH, lambda d: (d.dataset.name, d.dataset.digest)):
            self.server.log_inputs(there, datasets=some)

    def _new(
        self, there: str, things: Sequence[T], size: int, key: Callable[[T], Any]
    ) -> Iterator[list[T]]:
        """Yield what this process has not sent yet in parts; a part counts once its turn is over."""
        seen = self._seen.setdefault(there, set())
        new = [t for t in things if key(t) not in seen]
        for start in range(0, len(new), size):
            part = new[start : start + size]
            yield part
            seen.update(key(t) for t in part)

    def _send_files(self, run: Any, there: str) -> None:
        folder = Path(local_file_uri_to_path(run.info.artifact_uri))
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = file.relative_to(folder)
            key = f"file:{run.info.run_id}:{name.as_posix()}"
            if key not in self.ledger.sent:
                parent = name.parent.as_posix()
                self.server.log_artifact(there, str(file), None if parent == "." else parent)
                self.ledger.keep(key)

    def _models(self, run: Any) -> list[Any]:
        query = f"source_run_id = '{run.info.run_id}'"
        return list(self.local.search_logged_models([run.info.experiment_id], query))

    def _send_model(self, model: Any, run: Any, there: str) -> None:
        if f"files:{model.model_id}" in self.ledger.sent:
            return
        copy = self._create_model(model, there)
        self._link_output(model, copy, run, there)
        metrics = [_for_model(m, copy, there) for m in model.metrics or []]
        for start in range(0, len(metrics), _METRICS):
            self.server.log_batch(there, metrics=metrics[start : start + _METRICS])
        folder = Path(local_file_uri_to_path(model.artifact_location))
        card = folder / "MLmodel"
        if card.exists():
            place = self.server.get_logged_model(copy).artifact_location
            names = {model.artifact_location: place, model.model_id: copy, run.info.run_id: there}
            _rename(card, names)
        if folder.exists():
            self.server.log_model_artifacts(copy, str(folder))
        whole = str(model.status) == "READY" and card.exists()
        self.server.finalize_logged_model(copy, "READY" if whole else "FAILED")
        self.ledger.keep(f"files:{model.model_id}")

    def _create_model(self, model: Any, there: str) -> str:
        key = f"model:{model.model_id}"
        if key in self.ledger.sent:
            return self.ledger.sent[key]
        place = self._experiment()
        for found in self.server.search_logged_models([place], f"source_run_id = '{there}'"):
            if found.tags.get(SPOOL) == model.model_id:
                return self.ledger.keep(key, found.model_id)
        tags = {k: v for k, v in model.tags.items() if k != _VERSIONS}
        made = self.server.create_logged_model(
            place,
            name=model.name,
            source_run_id=there,
            tags=tags | {SPOOL: model.model_id},
            params=dict(model.params or {}),
            model_type=model.model_type,
        )
        return self.ledger.keep(key, made.model_id)

    def _link_output(self, model: Any, copy: str, run: Any, there: str) -> None:
        outputs = run.outputs.model_outputs if run.outputs else []
        steps = [o.step for o in outputs if o.model_id == model.model_id]
        known = self.server.get_run(there).outputs
        if steps and copy not in [o.model_id for o in (known.model_outputs if known else [])]:
            self.server.log_outputs(there, [LoggedModelOutput(copy, steps[0])])

    def _send_versions(self, run: Any, there: str) -> None:
        versions = self.local.search_model_versions(f"run_id = '{run.info.run_id}'")
        for v in sorted(versions, key=lambda v: int(v.version)):
            key = f"version:{v.name}:{v.version}"
            if key not in self.ledger.sent:
                self.ledger.keep(key, self._create_version(v, there))

    def _create_version(self, version: Any, there: str) -> str:
        from presseco.registry import first_is_champion

        name, source = version.name, version.source.removeprefix("models:/")
        mark = f"{source}/{version.version}"
        try:
            self.server.create_registered_model(name)
        except MlflowException as e:
            if e.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        model = self.ledger.sent[f"model:{source}"]
        mine = self.server.search_model_versions(f"name = '{name}' and run_id = '{there}'")
        made = next((v for v in mine if v.tags.get(SPOOL) == mark), None)
        made = made or self.server.create_model_version(
            name,
            f"models:/{model}",
            run_id=there,
            tags={**version.tags, SPOOL: mark},
            description=version.description,
            await_creation_for=0,
            model_id=model,
        )
        known = [{"name": name, "version": made.version}]
        self.server.set_logged_model_tags(model, {_VERSIONS: json.dumps(known)})
        first_is_champion(self.server, name, str(made.version))
        return str(made.version)

    def _drop_error(self, run: Any, there: str) -> None:
        """Remove the note that the run's process was gone, where the run ended well after all."""
        known = self.server.get_run(there).data.tags
        if "error" in known and "error" not in run.data.tags:
            self.server.delete_tag(there, "error")


def _point(metric: Metric) -> tuple[Any, ...]:
    return (
        metric.key,
        metric.timestamp,
        metric.step,
        str(metric.value),
    )  # NaN is not equal to itself


def _for_model(metric: Any, model_id: str, run_id: str) -> Metric:
    return Metric(
        metric.key,
        metric.value,
        metric.timestamp,
        metric.step,
        model_id=model_id,
        run_id=run_id,
        dataset_name=metric.dataset_name,
        dataset_digest=metric.dataset_digest,
    )


def _rename(file: Path, names: dict[str, str]) -> None:
    """Replace the numbers on disk by the server's in a model's description; twice does nothing."""
    text = file.read_text(encoding="utf-8")
    for old, new in names.items():
        text = text.replace(old, new)
    write_text(file, text)
