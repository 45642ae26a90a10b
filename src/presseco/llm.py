"""Votes of a language model behind any OpenAI-compatible endpoint: opt-in, cached, checked."""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from presseco.article import Article
from presseco.errors import SourceError
from presseco.files import write_text
from presseco.taxonomy import Taxonomy
from presseco.text import prepare
from presseco.vote import Vote

#: Part of the cache's key: raise it when the instruction below changes.
PROMPT_VERSION = 1
#: Characters sent of an article: headline, lead and what follows; the guideline judges by these.
_MAX_CHARS = 4000
_TRY_AGAIN = (408, 409, 429, 500, 502, 503, 504)
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how patiently. `key_variable` names the environment variable of the key."""

    url: str
    model: str
    key_variable: str
    timeout_seconds: float
    retries: int
    pause_seconds: float

    @property
    def is_local(self) -> bool:
        """Tell whether texts stay on this machine."""
        return urlparse(self.url).hostname in _LOCAL


@dataclass
class LanguageModel:
    """The endpoint as a source; its answers are kept in `cache` by text, model and prompt.

    `invalid` counts answers that were no labels of the taxonomy: those articles get no vote.
    """

    endpoint: Endpoint
    taxonomy: Taxonomy
    cache: Path
    confidence: float
    name: str = field(default="llm", init=False)
    invalid: int = field(default=0, init=False)
    asked: int = field(default=0, init=False)

    @property
    def stamp(self) -> str:
        """Return a digest of model, prompt and taxonomy; address and patience change no vote."""
        parts = (self.endpoint.model, PROMPT_VERSION, self.confidence, instruction(self.taxonomy))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def vote(self, articles: Sequence[Article]) -> list[list[Vote]]:
        """Return one vote a task that the model answered with a label; raise `SourceError` if it
        cannot be reached."""
        return [self._one(prepare(a.text, a.title)[:_MAX_CHARS]) for a in articles]

    def _one(self, text: str) -> list[Vote]:
        key = hashlib.sha256(f"{self.stamp}\0{text}".encode()).hexdigest()
        kept = self.cache / key[:2] / f"{key}.json"
        try:
            labels = json.loads(kept.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            labels = self._ask(text)
            if labels is None:
                self.invalid += 1
                return []
            write_text(kept, json.dumps(labels))
        return [Vote(t, label, self.confidence) for t, label in labels.items()]

    def _ask(self, text: str) -> dict[str, str] | None:
        """Return the labels, or None when the model answers nonsense twice."""
        body = {
            "model": self.endpoint.model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": instruction(self.taxonomy)},
                {"role": "user", "content": text},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "labels", "strict": True, "schema": schema(self.taxonomy)},
            },
        }
        for _ in range(2):
            self.asked += 1
            labels = _labels(post(self.endpoint, body), self.taxonomy)
            if labels is not None:
                return labels
        return None


def instruction(taxonomy: Taxonomy) -> str:
    """Return the guideline as an instruction, in French like the articles."""
    lines = [
        "Tu classes des articles de presse économique. Réponds par un objet JSON avec une étiquette "
        "par question, ou null si l'article n'y répond pas. Juge d'abord par le titre et le chapeau."
    ]
    for task in taxonomy.tasks:
        lines.append(f"\n{task.name} : {task.question_fr}")
        lines += [f"- {x.id} : {x.definition_fr}" for x in task.labels]
    return "\n".join(lines)


def schema(taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the JSON schema of an answer: every task, a label or null."""
    return {
        "type": "object",
        "properties": {
            t.name: {"type": ["string", "null"], "enum": [*t.ids, None]} for t in taxonomy.tasks
        },
        "required": list(taxonomy.names),
        "additionalProperties": False,
    }


def key_of(endpoint: Endpoint) -> str:
    """Return the key from the environment; a model on this machine may do without."""
    key = os.environ.get(endpoint.key_variable, "")
    if not key and not endpoint.is_local:
        raise SourceError(
            f"llm: the environment variable {endpoint.key_variable} is not set; it must hold the key "
            f"for {endpoint.url}. Set it, or remove `llm` from the labelling file."
        )
    return key


def post(endpoint: Endpoint, body: dict[str, Any]) -> Any:
    """Return the endpoint's JSON answer; try again when it is busy, down or slow."""
    headers = {"Content-Type": "application/json", "User-Agent": "presseco"}
    if key := key_of(endpoint):
        headers["Authorization"] = f"Bearer {key}"
    url = f"{endpoint.url.rstrip('/')}/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    reason = ""
    for attempt in range(endpoint.retries + 1):
        wait = endpoint.pause_seconds * 2**attempt
        try:
            with urllib.request.urlopen(request, timeout=endpoint.timeout_seconds) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as e:
            detail = e.read(300).decode("utf-8", "replace")
            if e.code not in _TRY_AGAIN:
                raise SourceError(f"llm: {url} answered {e.code}: {detail}") from None
            reason, after = f"{e.code}: {detail}", e.headers.get("Retry-After", "")
            wait = min(float(after), 60.0) if after.isdigit() else wait
        except (OSError, ValueError) as e:  # refused, cut off, timed out, or no JSON at all
            reason = str(e)
        if attempt < endpoint.retries:
            time.sleep(wait)
    raise SourceError(
        f"llm: {url} gave no answer in {endpoint.retries + 1} attempts ({reason}). "
        "What was answered is kept; the same command goes on from here."
    )


def _labels(answer: Any, taxonomy: Taxonomy) -> dict[str, str] | None:
    """Return the labels of an answer, or None where it is not what was asked for."""
    try:
        given = json.loads(answer["choices"][0]["message"]["content"])
        if set(given) - set(taxonomy.names):
            return None
        labels = {t: given[t] for t in taxonomy.names if given.get(t) is not None}
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return labels if all(x in taxonomy[t].ids for t, x in labels.items()) else None
