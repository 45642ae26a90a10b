"""The HTTP service's requests and answers, as its OpenAPI page describes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

#: Characters of a text and of a title; more is no article. The model reads some 2,500 of them.
MAX_TEXT, MAX_TITLE = 100_000, 2_000
#: Articles of a batch request: about two seconds of work on two cores.
MAX_ARTICLES = 64


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Article(_Strict):
    """A text and, if it comes apart, its title."""

    text: Annotated[str, Field(max_length=MAX_TEXT, examples=["Le CAC 40 a gagné 1,2 % mardi."])]
    title: Annotated[str | None, Field(max_length=MAX_TITLE)] = None


class Batch(_Strict):
    """Several articles; the answers come in their order."""

    articles: Annotated[list[Article], Field(max_length=MAX_ARTICLES)]


class TaskAnswer(BaseModel):
    """The answer to one question; look at `abstained` before using `label`."""

    label: str
    display: str
    probability: float
    abstained: bool
    probabilities: dict[str, float]


class ArticleAnswer(BaseModel):
    """All answers for one article. `truncated`: only the text's beginning was read."""

    answers: dict[str, TaskAnswer]
    truncated: bool
    model: str


class BatchAnswer(BaseModel):
    """The answers in the order of the articles."""

    predictions: list[ArticleAnswer]


class Detail(BaseModel):
    """Why a request was refused."""

    detail: str | list[dict[str, Any]]


class Status(BaseModel):
    """The state of the service; `model` and `precision` once it is ready."""

    status: str
    model: str | None = None
    precision: str | None = None
