"""The HTTP service: answers, refusals, limits, metrics, silence about texts, a graceful end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import needs
from presseco.__main__ import main
from presseco.api import MAX_ARTICLES, MAX_TEXT
from presseco.classifier import Classifier
from presseco.errors import BundleError
from presseco.serve import Limits, create_app

TEXT = "Renault relève ses prévisions de marge après un bon trimestre."


@pytest.fixture(scope="module")
def classifier(tiny_bundle: Path) -> Classifier:
    return Classifier.load(tiny_bundle, threads=1)


@contextmanager
def running(load: Any, limits: Limits | None = None) -> Iterator[TestClient]:
    with TestClient(create_app(load, limits), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[TestClient]:
    with running(lambda: classifier, Limits(max_bytes=400_000)) as found:
        ready(found)
        yield found


def ready(client: TestClient) -> None:
    for _ in range(200):
        if client.get("/ready").status_code == 200:
            return
        time.sleep(0.02)
    raise AssertionError(client.get("/ready").text)


def test_one_article(client: TestClient, classifier: Classifier) -> None:
    want = classifier.predict([TEXT], ["Renault"])[0]
    response = client.post("/predict", json={"text": TEXT, "title": "Renault"})
    assert response.status_code == 200
    got = response.json()
    assert (got["model"], got["truncated"]) == (want.model, want.truncated)
    for task, answer in want.answers.items():
        assert got["answers"][task] == vars(answer)


def test_batch_keeps_the_order(client: TestClient) -> None:
    texts = [TEXT, "", "Le CAC 40 recule.", "a\x00b 😀"]
    response = client.post("/predict/batch", json={"articles": [{"text": t} for t in texts]})
    assert response.status_code == 200
    alone = [client.post("/predict", json={"text": t}).json() for t in texts]
    for a, b in zip(response.json()["predictions"], alone, strict=True):
        assert {t: v["label"] for t, v in a["answers"].items()} == {
            t: v["label"] for t, v in b["answers"].items()
        }


def test_empty_batch(client: TestClient) -> None:
    response = client.post("/predict/batch", json={"articles": []})
    assert (response.status_code, response.json()) == (200, {"predictions": []})


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict", {"text": 3}, 422, "valid string"),
        ("/predict", {"text": None}, 422, "valid string"),
        ("/predict", {}, 422, "required"),
        ("/predict", {"text": "a", "titel": "b"}, 422, "not permitted"),
        ("/predict", {"text": "a" * (MAX_TEXT + 1)}, 422, f"at most {MAX_TEXT}"),
        ("/predict", [], 422, "valid dict"),
        ("/predict/batch", {"articles": [{"text": "a"}] * (MAX_ARTICLES + 1)}, 422, "at most 64"),
        ("/predict/batch", {"articles": [{"text": "a"}, {"text": 1}]}, 422, "valid string"),
    ],
)
def test_wrong_fields(client: TestClient, path: str, body: Any, status: int, message: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == status
    detail = response.json()["detail"]
    assert message in json.dumps(detail)
    assert all("input" not in d for d in detail)


def test_half_a_character_is_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    response = client.post("/predict", content=b'{"text": "\\ud800"}', headers=headers)
    assert response.status_code == 422
    assert "unicode" in response.text


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"text": "a"'])
def test_no_json(client: TestClient, body: bytes) -> None:
    response = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["detail"]


@pytest.mark.parametrize("declared", [True, False])
def test_too_large_a_body(client: TestClient, declared: bool) -> None:
    body = b'{"text": "' + b"a" * 500_000 + b'"}'
    chunks = iter([body[:200_000], body[200_000:400_000], body[400_000:]])
    headers = {"content-type": "application/json"}
    response = client.post("/predict", content=body if declared else chunks, headers=headers)
    assert response.status_code == 413
    assert response.json() == {"detail": "the body is over 400,000 bytes"}


def test_health_ready_metrics(client: TestClient, classifier: Classifier) -> None:
    assert client.get("/health").json()["status"] == "ok"
    state = client.get("/ready").json()
    assert state["model"] == f"presseco-tiny@{classifier.bundle.version}"
    before = metrics(client)
    client.post("/predict", json={"text": TEXT * 100})
    client.get("/no/such/path")
    after = metrics(client)

    def rise(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert rise("presseco_texts_total") == 1
    assert rise("presseco_truncated_total") == 1
    assert rise('presseco_requests_total{path="/predict",status="200"}') == 1
    assert rise('presseco_requests_total{path="other",status="404"}') == 1
    assert (
        sum(v - before.get(k, 0) for k, v in after.items() if k.startswith("presseco_labels_total"))
        == 3
    )
    assert after["presseco_busy"] == 0


def metrics(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def test_openapi_names_every_refusal(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/predict/batch", "/health", "/ready", "/metrics"}
    assert set(paths["/predict"]["post"]["responses"]) == {"200", "400", "413", "422", "503", "504"}


def test_not_ready_while_loading(classifier: Classifier) -> None:
    gate = threading.Event()

    def load() -> Classifier:
        gate.wait(10)
        return classifier

    with running(load) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 503
        assert client.post("/predict", json={"text": TEXT}).headers["retry-after"] == "1"
        gate.set()
        ready(client)
        assert client.post("/predict", json={"text": TEXT}).status_code == 200


class Slow:
    """A real classifier that waits for a sign before it answers."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.go = classifier, threading.Event()
        self.bundle, self.precision = classifier.bundle, classifier.precision

    def predict(self, texts: list[str], titles: list[str | None]) -> Any:
        self.go.wait(10)
        return self.classifier.predict(texts, titles)


def test_full_line_is_refused_at_once(classifier: Classifier) -> None:
    slow = Slow(classifier)
    with (
        running(lambda: slow, Limits(workers=1, waiting=2)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        ready(client)
        jobs = [pool.submit(client.post, "/predict", json={"text": TEXT}) for _ in range(3)]
        while metrics(client)["presseco_busy"] < 3:
            time.sleep(0.01)
        started = time.monotonic()
        refused = client.post("/predict", json={"text": TEXT})
        assert time.monotonic() - started < 2
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "busy" in refused.json()["detail"]
        slow.go.set()
        assert [j.result().status_code for j in jobs] == [200] * 3
        assert client.post("/predict", json={"text": TEXT}).status_code == 200


def test_slow_answer_is_504_and_frees_its_place(classifier: Classifier) -> None:
    slow = Slow(classifier)
    with running(lambda: slow, Limits(workers=1, waiting=0, seconds=0.2)) as client:
        ready(client)
        response = client.post("/predict", json={"text": TEXT})
        assert (response.status_code, response.json()["detail"]) == (504, "no answer within 0.2 s")
        assert client.post("/predict", json={"text": TEXT}).status_code == 503  # still at work
        slow.go.set()
        while metrics(client)["presseco_busy"]:
            time.sleep(0.01)
        assert client.post("/predict", json={"text": TEXT}).status_code == 200


def test_bundle_that_cannot_be_loaded() -> None:
    def load() -> Classifier:
        raise BundleError("model.onnx: damaged")

    with running(load) as client:
        for _ in range(100):
            response = client.get("/ready")
            if "cannot be loaded" in response.text:
                break
            time.sleep(0.02)
        assert response.status_code == 503
        assert "cannot be loaded; see the log" in response.json()["detail"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "workers is 0; expected 1 or more"),
        (["--waiting", "-1"], "waiting is -1; expected 0 or more"),
        (["--timeout", "nan"], "timeout is nan s"),
        (["--threads", "-2"], "threads is -2"),
        (["--port", "99999"], "port is 99999"),
    ],
)
def test_numbers_that_no_service_runs_with(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--model", "no-model-is-loaded", *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"presseco serve: {message}")


# The service as it is started, in a process of its own.


@contextmanager
def process(
    bundle: Path, tmp_path: Path, *arguments: str
) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "presseco", "serve", "--model", str(bundle)]
    command += ["--port", str(port), *arguments]
    log = tmp_path / "log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"{url}/ready", timeout=2).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url, server, log
    finally:
        if server.poll() is None:
            server.kill()
        server.wait(10)


def ask(url: str, body: Any) -> tuple[int, Any]:
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def test_logs_are_json_without_a_word_of_the_article(tiny_bundle: Path, tmp_path: Path) -> None:
    with process(tiny_bundle, tmp_path) as (url, server, log):
        assert ask(f"{url}/predict", {"text": "Confidentiel : Zorglub rachète Tintin."})[0] == 200
        assert ask(f"{url}/predict", {"text": ["Zorglub"]})[0] == 422
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}/Zorglub")
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert "Zorglub" not in log.read_text("utf-8")
    requests = [x for x in lines if x["logger"] == "presseco.access" and x["path"] == "/predict"]
    assert [x["status"] for x in requests] == [200, 422]
    assert all(x["ms"] >= 0 and x["bytes"] > 0 and x["time"] for x in requests)


def test_sigterm_finishes_what_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    with process(tiny_bundle, tmp_path, "--threads", "1") as (url, server, _):
        body = {"articles": [{"text": TEXT * 60}] * MAX_ARTICLES}
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(ask, f"{url}/predict/batch", body) for _ in range(4)]
            while "presseco_busy 0.0" in urllib.request.urlopen(f"{url}/metrics").read().decode():
                time.sleep(0.005)
            server.send_signal(signal.SIGTERM)
            answers = [j.result() for j in jobs]
        # Accepted requests are answered; one that had not reached the server yet is refused.
        assert answers[0][0] == 200
        assert len(answers[0][1]["predictions"]) == MAX_ARTICLES
        assert server.wait(20) in (0, -signal.SIGTERM)


def test_serve_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "presseco", "serve", "--model", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("presseco serve: ")
    assert "no bundle.json here" in done.stderr


@pytest.mark.services
@pytest.mark.timeout(900)
def test_schemathesis_finds_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    needs.package("schemathesis")
    with process(tiny_bundle, tmp_path) as (url, _, log):
        command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{url}/openapi.json"]
        command += ["--max-examples", "150", "--checks", "all", "--seed", "1", "--no-color"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert '"level": "error"' not in log.read_text("utf-8")


@pytest.mark.services
@pytest.mark.timeout(300)
def test_a_minute_at_saturation(tiny_bundle: Path, tmp_path: Path) -> None:
    """32 connections at once for a minute: no error, no growth of memory."""
    import psutil

    wrk = needs.program("wrk")
    script = tmp_path / "post.lua"
    body = json.dumps({"text": TEXT * 4}, ensure_ascii=False)
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\nwrk.body = [[{body}]]\n'
    )
    with process(tiny_bundle, tmp_path, "--waiting", "64") as (url, server, _):
        command = [wrk, "-t1", "-c32", "--latency", "-s", str(script), f"{url}/predict"]
        memory = psutil.Process(server.pid).memory_info
        subprocess.run([*command, "-d10s"], capture_output=True, check=True)
        warm = memory().rss
        done = subprocess.run([*command, "-d60s"], capture_output=True, text=True, check=True)
        grown = memory().rss - warm
    assert "Non-2xx" not in done.stdout, done.stdout
    assert "Socket errors" not in done.stdout, done.stdout
    assert re.search(r"99%\s+[\d.]+(ms|s)", done.stdout), done.stdout
    assert grown < 0.1 * warm + 10e6, f"{grown / 1e6:.0f} MB grown on {warm / 1e6:.0f} MB"
    print(done.stdout, os.linesep, f"{warm / 1e6:.0f} MB, {grown / 1e6:+.1f} MB in a minute")
