"""A language model behind a local endpoint: what is asked, what is believed, what is kept."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from presseco.article import Article
from presseco.errors import SourceError
from presseco.labelling import Labelling, LlmConfig, labellers
from presseco.llm import Endpoint, LanguageModel
from presseco.taxonomy import read_taxonomy

TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
GOOD = {"sector": "energie", "event_type": "resultats", "sentiment": None}
ARTICLE = Article("a", "Le pétrolier gagne plus\nLe bénéfice double.", {})
Answer = tuple[int, Any, dict[str, str]]


class Server:
    """An OpenAI-compatible endpoint that gives the answers it is told to, the last for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.requests.append({"path": self.path, **json.loads(body)})
                owner.keys.append(self.headers.get("Authorization"))
                answer = owner.answers[0] if len(owner.answers) == 1 else owner.answers.pop(0)
                code, content = answer if isinstance(answer, tuple) else (200, answer)
                if content == "sleep":
                    time.sleep(1.5)
                text = content if isinstance(content, str) else json.dumps(content)
                said = {"choices": [{"message": {"role": "assistant", "content": text}}]}
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: Any) -> Server:
        servers.append(Server(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def model(url: str, cache: Path, **change: Any) -> LanguageModel:
    settings = {
        "model": "tiny",
        "key_variable": "PRESSECO_TEST_KEY",
        "timeout_seconds": 0.5,
        "retries": 2,
        "pause_seconds": 0.01,
    }
    return LanguageModel(Endpoint(url, **(settings | change)), TAXONOMY, cache, 0.9)


def votes(source: LanguageModel, article: Article = ARTICLE) -> dict[str, str]:
    return {v.task: v.label for v in source.vote([article])[0]}


def test_asks_for_a_schema_of_the_taxonomy_and_votes(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESSECO_TEST_KEY", "secret")
    server = serve(GOOD)
    assert votes(model(server.url, tmp_path)) == {"sector": "energie", "event_type": "resultats"}
    (asked,) = server.requests
    assert server.keys == ["Bearer secret"]
    assert asked["path"] == "/v1/chat/completions" and asked["model"] == "tiny"
    schema = asked["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["sector"]["enum"] == [*TAXONOMY["sector"].ids, None]
    assert "Le pétrolier gagne plus" in asked["messages"][1]["content"]
    assert "secret" not in "".join(p.read_text() for p in tmp_path.rglob("*.json"))


def test_the_same_text_is_asked_once(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(GOOD)
    for _ in range(3):
        assert votes(model(server.url, tmp_path))
    assert len(server.requests) == 1
    votes(model(server.url, tmp_path, model="other"))
    votes(model(server.url, tmp_path), Article("b", "Un autre texte.", {}))
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "nonsense",
    ["energie", {"sector": "pétrole"}, {"secteur": "energie"}, ["energie"], "", {"sector": 3}],
)
def test_nonsense_is_asked_again_then_counted(
    serve: Callable[..., Server], tmp_path: Path, nonsense: Any
) -> None:
    server = serve(nonsense)
    source = model(server.url, tmp_path)
    assert votes(source) == {}
    assert (source.asked, source.invalid) == (2, 1)
    assert not list(tmp_path.rglob("*.json"))
    server.answers = [nonsense, GOOD]
    assert votes(source) == {"sector": "energie", "event_type": "resultats"}


def test_busy_and_slow_servers_are_tried_again(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve((503, "busy"), (200, "sleep"), GOOD)
    assert votes(model(server.url, tmp_path))["sector"] == "energie"
    assert len(server.requests) == 3


def test_a_server_that_stays_down_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="gave no answer in 3 attempts"):
        votes(model("http://127.0.0.1:9/v1", tmp_path))


def test_a_refusal_is_not_tried_again(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve((401, "bad key"))
    with pytest.raises(SourceError, match="answered 401"):
        votes(model(server.url, tmp_path))
    assert len(server.requests) == 1


def rules(**change: Any) -> Labelling:
    settings = {
        "url": "https://llm.example.org/v1",
        "model": "m",
        "key_variable": "PRESSECO_TEST_KEY",
    }
    return Labelling(
        patterns=None,
        companies=None,
        similar=None,
        llm=LlmConfig(**(settings | change)),
        annotations=[],
        least_confidence=dict.fromkeys(TAXONOMY.names, 0.5),
    )


def test_the_network_needs_the_word_the_right_and_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PRESSECO_TEST_KEY", raising=False)
    with pytest.raises(SourceError, match="--online"):
        labellers(rules(), ROOT, TAXONOMY)
    with pytest.raises(SourceError, match="may not be redistributed"):
        labellers(rules(), ROOT, TAXONOMY, online=True, may_leave=False)
    with pytest.raises(SourceError, match="PRESSECO_TEST_KEY is not set"):
        labellers(rules(), ROOT, TAXONOMY, online=True)
    monkeypatch.setenv("PRESSECO_TEST_KEY", "secret")
    assert labellers(rules(), ROOT, TAXONOMY, online=True)[0].name == "llm"
    protected = rules(send_protected_texts=True)
    assert labellers(protected, ROOT, TAXONOMY, online=True, may_leave=False)
