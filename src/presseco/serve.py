"""`presseco serve`: a bundle over HTTP, for services that have no MLflow."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from presseco import __version__
from presseco.api import Article, ArticleAnswer, Batch, BatchAnswer, Detail, Status, TaskAnswer
from presseco.classifier import Classifier, Prediction
from presseco.errors import ConfigError, StoreError
from presseco.gate import Gate, Metrics, log_to_stdout

log = logging.getLogger("presseco.serve")


@dataclass(frozen=True)
class Limits:
    """`workers` predictions at once, `waiting` more in line, `seconds` until a 504."""

    workers: int = 1
    waiting: int = 32
    seconds: float = 10.0
    max_bytes: int = 4_000_000

    def __post_init__(self) -> None:
        """Refuse numbers that no service can run with."""
        for name, least in (("workers", 1), ("waiting", 0), ("max_bytes", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} or more")
        if not 0 < self.seconds < float("inf"):
            raise ConfigError(f"timeout is {self.seconds:g} s; expected more than 0")


class Line:
    """The predictions at work and those in line behind them, up to a limit."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._pool = ThreadPoolExecutor(limits.workers, "predict")
        self._busy, self._lock = 0, threading.Lock()

    async def run(self, work: Callable[[], list[Prediction]]) -> list[Prediction]:
        """Do `work` on a thread; 503 at once when the line is full, 504 when it takes too long."""
        with self._lock:
            if self._busy >= self._limits.workers + self._limits.waiting:
                raise HTTPException(503, "busy: the line is full", headers={"Retry-After": "1"})
            self._busy += 1
            self._metrics.busy.set(self._busy)
        job = self._pool.submit(work)
        # Left when the thread is free again, not when the client gave up: running work goes on.
        job.add_done_callback(lambda _: self._leave())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job), self._limits.seconds)
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self._limits.seconds:g} s") from None

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1
            self._metrics.busy.set(self._busy)

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def create_app(load: Callable[[], Classifier], limits: Limits | None = None) -> FastAPI:
    """Return the service; `load` runs at its start on a thread, until then `/ready` is 503."""
    limits = limits or Limits()
    metrics = Metrics()
    line = Line(limits, metrics)
    state: dict[str, Any] = {"classifier": None, "failed": False}

    def start() -> None:
        try:
            classifier = load()
        except Exception:
            state["failed"] = True
            log.exception("the model cannot be loaded")
            raise
        metrics.model.labels(_version(classifier), classifier.precision).set(1)
        state["classifier"] = classifier
        log.info("ready", extra={"fields": {"model": _version(classifier)}})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.get_running_loop().run_in_executor(None, start)
        yield
        await asyncio.gather(loading, return_exceptions=True)  # an error is logged already
        line.close()

    app = FastAPI(
        title="presseco",
        version=__version__,
        description="Sorts French business news by sector, event type and sentiment.",
        lifespan=lifespan,
    )
    _add_predict(app, state, line, metrics)
    _add_watch(app, state, metrics)
    app.add_exception_handler(RequestValidationError, _invalid)
    paths = frozenset(app.openapi()["paths"])
    app.add_middleware(Gate, metrics=metrics, max_bytes=limits.max_bytes, paths=paths)
    return app


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Detail, "description": "The body is not JSON in UTF-8"},
    413: {"model": Detail, "description": "The body is too large"},
    422: {"model": Detail, "description": "A field is missing, unknown, too long or no string"},
    503: {"model": Detail, "description": "Not ready yet, or busy: try again after Retry-After"},
    504: {"model": Detail, "description": "No answer in time"},
}


def _add_predict(app: FastAPI, state: dict[str, Any], line: Line, metrics: Metrics) -> None:
    async def answer(articles: list[Article]) -> list[ArticleAnswer]:
        classifier = _ready(state)
        texts, titles = [a.text for a in articles], [a.title for a in articles]
        predictions = await line.run(lambda: classifier.predict(texts, titles))
        metrics.count(predictions)
        return [_article_answer(p) for p in predictions]

    @app.post("/predict", responses=_REFUSALS)
    async def predict(article: Article) -> ArticleAnswer:
        """Classify one article."""
        return (await answer([article]))[0]

    @app.post("/predict/batch", responses=_REFUSALS)
    async def predict_batch(batch: Batch) -> BatchAnswer:
        """Classify several articles."""
        return BatchAnswer(predictions=await answer(batch.articles))


def _add_watch(app: FastAPI, state: dict[str, Any], metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Status:
        """Answer as long as the process lives: restart it when this fails."""
        return Status(status="ok")

    @app.get("/ready", responses={503: _REFUSALS[503]})
    async def ready() -> Status:
        """Answer 200 once the model is loaded and has passed its self-test."""
        classifier = _ready(state)
        return Status(status="ready", model=_version(classifier), precision=classifier.precision)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics_page() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _ready(state: dict[str, Any]) -> Classifier:
    if state["classifier"] is None:
        text = "the model cannot be loaded; see the log" if state["failed"] else "loading the model"
        raise HTTPException(503, text, headers={"Retry-After": "1"})
    found: Classifier = state["classifier"]
    return found


def _version(classifier: Classifier) -> str:
    return f"{classifier.bundle.name}@{classifier.bundle.version}"


def _article_answer(p: Prediction) -> ArticleAnswer:
    answers = {name: TaskAnswer(**vars(a)) for name, a in p.answers.items()}
    return ArticleAnswer(answers=answers, truncated=p.truncated, model=p.model)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Say what is wrong and where, without sending the text back."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    broken = [e for e in found if e["type"] == "json_invalid"]
    detail = [{k: e[k] for k in ("type", "loc", "msg")} for e in found]
    return JSONResponse({"detail": detail}, 400 if broken else 422)


def serve(
    model: str,
    host: str,
    port: int,
    *,
    precision: str = "auto",
    threads: int = 0,
    limits: Limits | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests at work are finished first. Logs go to stdout."""
    limits = limits or Limits()
    if threads < 0 or not 0 <= port < 65536:
        what = f"threads is {threads}" if threads < 0 else f"port is {port}"
        raise ConfigError(f"{what}; expected threads >= 0 (0: all cores), port 0 to 65535")
    log_to_stdout()
    failed: list[Exception] = []

    def load() -> Classifier:
        try:
            return Classifier.load(model, precision=precision, threads=threads)
        except Exception as e:
            failed.append(e)
            server.should_exit = True
            raise

    config = uvicorn.Config(
        create_app(load, limits),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
        server_header=False,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except SystemExit as e:  # uvicorn's way to say that it could not bind
        raise StoreError(f"{host}:{port}: cannot be served; is the port taken?") from e
    if failed:
        raise failed[0]
