"""Build articles from a source: all stages over all files, in parallel, resumable, incremental."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from presseco import read
from presseco.business import read_lexicon
from presseco.collection import Collection, Progress, Result
from presseco.config import Config
from presseco.document import Piece
from presseco.duplicates import VALUES, cluster, method
from presseco.errors import SourceError
from presseco.handover import Counts, hand_over
from presseco.progress import Report
from presseco.source import FeedInput, FolderInput, HubInput, Source
from presseco.stages import Chain
from presseco.taxonomy import Taxonomy, read_taxonomy

#: Articles that travel to a worker together: enough to hide the journey, few enough that a killed
#: run loses less than a second of work.
_CHUNK = 128
_CHUNK_BYTES = 4 * 1024 * 1024


def collect(
    source: Source,
    config: Config,
    *,
    workers: int | None = None,
    online: bool = False,
    report: Report = lambda *_: None,
) -> Counts:
    """Read what is new in the source, cluster, write articles, ledger and quarantine; count them.

    `report` is told the articles so far, and files done of all that are new, after every batch.

    Paths are relative to `config.root`. Raises `SourceError` when the source cannot be read, or
    needs the network and `online` is not set.
    """
    if source.online(config.root) and not online:
        raise SourceError(
            f"source {source.name} reads from the network; "
            "say so with --online (make data SOURCE=... ONLINE=1)"
        )
    taxonomy = read_taxonomy(config.path(config.corpus.taxonomy))
    folder = config.path(source.folder)
    chain, stamp = _chain(source, config, taxonomy)
    collection = Collection(folder / "collection.db")
    try:
        collection.start(stamp)
        count = workers if workers is not None else os.cpu_count() or 1
        pieces, total = _pieces(source, config, collection)
        _read_new(collection, pieces, chain, count, lambda what, n: report(what, n, total))
        _cluster(collection, source.keep.near_duplicate)
        labels = config.path(source.labels) if source.labels else None
        return hand_over(collection, folder, source, taxonomy, labels)
    finally:
        collection.close()


def _chain(source: Source, config: Config, taxonomy: Taxonomy) -> tuple[Chain, str]:
    files = [config.path(config.corpus.taxonomy)]
    lexicon = None
    if source.keep.business:
        files.append(config.path(source.keep.business))
        lexicon = read_lexicon(files[-1])
    return Chain(source, taxonomy, lexicon), f"{source.stamp(*files)}-{method()}"


def _pieces(source: Source, config: Config, collection: Collection) -> tuple[Iterator[Piece], int]:
    """Return the pieces that the collection does not have yet, and of how many files at most."""
    match source.input:
        case FolderInput(path=path):
            return _folder(config.path(path), collection)
        case FeedInput():
            from presseco import feed

            cache = config.path(source.input.cache)
            return feed.pieces(source.input, cache, collection), source.input.max_new_articles
        case HubInput():
            from presseco import hub

            return hub.pieces(source.input, config.root, collection), 1


def _folder(root: Path, collection: Collection) -> tuple[Iterator[Piece], int]:
    entries = list(read.listing(root))
    collection.forget_missing({e.name for e in entries})
    places = ((e, collection.progress(e.name, e.size, e.mtime)) for e in entries)
    new = [(e, p) for e, p in places if not p.finished]
    cut = (read.pieces(e, p.resume, p.position) for e, p in new)
    return itertools.chain.from_iterable(cut), len(new)


def _read_new(
    collection: Collection,
    pieces: Iterator[Piece],
    chain: Chain,
    workers: int,
    report: Callable[[str, int], None],
) -> None:
    files = articles = kept = 0
    for chunk, results in _mapped(chain, _chunks(pieces), workers):
        progress = _progress(chunk)
        collection.add(results, progress)
        files += sum(p.finished for p in progress)
        articles += len(results)
        kept += sum(bool(r.article) for r in results)
        report(f"{articles:,} articles, {kept:,} kept, files", files)


def _progress(chunk: Sequence[Piece]) -> list[Progress]:
    """Return how far each file of a chunk is read; one to be tried again is not finished."""
    last = {p.file: p for p in chunk if not p.try_again}
    return [Progress(p.file, p.resume, p.position, p.final) for p in last.values()]


def _chunks(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    chunk: list[Piece] = []
    size = 0
    for piece in pieces:
        chunk.append(piece)
        size += len(piece.body)
        if len(chunk) >= _CHUNK or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _mapped(
    chain: Chain, chunks: Iterator[list[Piece]], workers: int
) -> Iterator[tuple[list[Piece], list[Result]]]:
    """Yield every chunk with its results, in order; in processes where that pays their start."""
    first = list(itertools.islice(chunks, 2))
    if workers < 2 or len(first) < 2:
        yield from ((c, chain.run(c)) for c in itertools.chain(first, chunks))
        return
    # spawn: forking a process that has threads (a progress bar, arrow) may deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (chain,)) as pool:
        waiting: deque[tuple[list[Piece], Future[list[Result]]]] = deque()
        try:
            for chunk in itertools.chain(first, chunks):
                waiting.append((chunk, pool.submit(_work, chunk)))
                # A bounded queue: memory stays flat, and nothing is read far ahead of its saving.
                if len(waiting) > 2 * workers:
                    chunk, future = waiting.popleft()
                    yield chunk, future.result()
            while waiting:
                chunk, future = waiting.popleft()
                yield chunk, future.result()
        except BrokenProcessPool:
            raise SourceError(
                "a worker process was ended from outside (out of memory?); "
                "the same command goes on from here, --workers 1 needs least"
            ) from None


_chain_of_worker: Chain


def _begin(chain: Chain) -> None:
    global _chain_of_worker
    _chain_of_worker = chain
    # Articles leave no cycles behind them; looking for some every 700 objects took a tenth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # Ctrl-C reaches all processes of a terminal; the parent alone decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that is killed leaves its workers waiting for ever on a queue that they keep open.
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(chunk: list[Piece]) -> list[Result]:
    return _chain_of_worker.run(chunk)


def _cluster(collection: Collection, threshold: float) -> None:
    """Give every article its story; the later of two exact copies, or of one id, goes aside."""
    names, digests, signatures = collection.prints(VALUES)
    first: dict[str, int] = {}
    given = [(first.setdefault(s, i), i) for i, (_, s) in enumerate(names) if s]
    clusters = cluster(digests, signatures, threshold, given)
    collection.set_stories(_verdicts(names, clusters.story.tolist(), clusters.copy_of.tolist()))


def _verdicts(
    names: Sequence[tuple[str, str]], stories: Sequence[int], copies: Sequence[int]
) -> Iterator[tuple[str, str, str]]:
    owner: dict[str, int] = {}
    original: dict[int, str] = {}  # by the first copy: the article that is kept of its text
    members: dict[int, int] = {}
    for head in stories:
        members[head] = members.get(head, 0) + 1
    for i, (name, _) in enumerate(names):
        first, given = names[stories[i]]
        story = given or (first if members[stories[i]] > 1 else "")
        if copies[i] in original:
            yield story, "exact_copy", f"same words as {original[copies[i]]}"
        elif owner.setdefault(name, i) != i:
            yield story, "id_twice", f"another text has the id {name}; ids must be unique"
        else:
            original[copies[i]] = name
            yield story, "", ""
