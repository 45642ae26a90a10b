"""What every request of the HTTP service passes: size limit, one log line, metrics."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

access = logging.getLogger("presseco.access")
#: Seconds; a single article takes about 0.03, a full batch about 2.
_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The service's Prometheus metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.requests = Counter("presseco_requests", "Requests", ["path", "status"], registry=r)
        self.seconds = Histogram(
            "presseco_request_seconds", "Time to answer", ["path"], buckets=_BUCKETS, registry=r
        )
        self.busy = Gauge("presseco_busy", "Requests being classified or waiting", registry=r)
        self.texts = Counter("presseco_texts", "Texts classified", registry=r)
        self.truncated = Counter("presseco_truncated", "Texts read in part", registry=r)
        self.labels = Counter("presseco_labels", "Answers", ["task", "label"], registry=r)
        self.abstained = Counter("presseco_abstained", "Answers abstained", ["task"], registry=r)
        self.model = Gauge("presseco_model_info", "1", ["model", "precision"], registry=r)

    def count(self, predictions: list[Any]) -> None:
        """Add the answers of one request: watch label shares and abstention for drift."""
        self.texts.inc(len(predictions))
        for p in predictions:
            self.truncated.inc(p.truncated)
            for task, answer in p.answers.items():
                self.labels.labels(task, answer.label).inc()
                self.abstained.labels(task).inc(answer.abstained)


class Gate:
    """ASGI middleware. The log line has sizes and times, and never a word of an article."""

    def __init__(self, app: Any, metrics: Metrics, max_bytes: int, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.max_bytes, self.paths = app, metrics, max_bytes, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on; answer 413 when its body is larger than `max_bytes`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, size = time.perf_counter(), 0, 0
        over = _declared(scope) > self.max_bytes

        async def limited() -> Any:
            nonlocal size, over
            message = await receive()
            size += len(message.get("body", b""))
            over = over or size > self.max_bytes
            # To the application a body that goes on too long looks like a client that left.
            return {"type": "http.disconnect"} if over else message

        async def watched(message: Any) -> None:
            nonlocal status
            if over and not status:
                return
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if not over:
                await self.app(scope, limited, watched)
            if over and not status:
                status = 413
                await self._too_large(send)
        finally:
            self._note(scope, status or 500, size, time.perf_counter() - started)

    async def _too_large(self, send: Any) -> None:
        body = json.dumps({"detail": f"the body is over {self.max_bytes:,} bytes"}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _note(self, scope: Any, status: int, size: int, seconds: float) -> None:
        # A label for every path that a scanner tries would grow without end.
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.metrics.requests.labels(path, status).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        fields = {"method": scope["method"], "path": path, "status": status}
        access.info(
            "request", extra={"fields": {**fields, "bytes": size, "ms": round(seconds * 1e3, 1)}}
        )


def _declared(scope: Any) -> int:
    values = [v for k, v in scope["headers"] if k == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0


class _Line(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON: time, level, logger, message, fields, exception type."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        # The place of an error, without the values in its text: they could quote an article.
        if record.exc_info and record.exc_info[0]:
            trace, frames = record.exc_info[2], []
            while trace:
                code = trace.tb_frame.f_code
                frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
                trace = trace.tb_next
            line |= {"error": record.exc_info[0].__name__, "trace": frames[-8:]}
        return json.dumps(line, ensure_ascii=False)


def log_to_stdout() -> None:
    """Send all logs of the process to stdout as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Line())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
