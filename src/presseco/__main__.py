"""The command line: `presseco <verb>` or `python -m presseco <verb>`; `make` has most verbs too."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

from presseco.arguments import make_parser
from presseco.errors import PressecoError
from presseco.verbs import process_count

#: Extras that hold a package; all others train and collect.
_EXTRAS = {
    "fastapi": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "pyarrow": "table",
    "cleanlab": "annotate",
    "matplotlib": "drift",
}
_MOST = "train,collect"
#: Verbs whose other packages an extra of their own holds.
_VERBS = {"predict": "cascade"}
#: The disk refuses: full, over quota, over the file size limit, read-only, not ours.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; errors a user can act on are one line on stderr and exit code 1."""
    args = make_parser(__doc__ or "").parse_args(argv)
    if process_count() > 1 and args.verb != "train":
        print(f"presseco {args.verb}: runs in one process, without torchrun", file=sys.stderr)
        return 1
    try:
        code: int | None = args.run(args)
    except PressecoError as e:
        print(f"presseco {args.verb}: {e}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as e:
        name = (e.name or "").split(".")[0]
        if name == "presseco":
            raise
        extra = _EXTRAS.get(name) or _VERBS.get(args.verb, _MOST)
        print(
            f"presseco {args.verb}: needs the package {name!r}. "
            f"Install what this verb needs: pip install 'presseco[{extra}]'",
            file=sys.stderr,
        )
        return 1
    except OSError as e:
        if e.errno not in _DISK:
            raise
        where = f"{e.filename}: " if e.filename else ""
        print(
            f"presseco {args.verb}: {where}{e.strerror or e}. Check free space and permissions.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"presseco {args.verb}: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
