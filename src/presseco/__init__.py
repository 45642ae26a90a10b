"""presseco: French business news by sector, event type and sentiment.

`Classifier` is imported on first use, so that `import presseco` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from presseco.classifier import Answer, Classifier, Prediction

__all__ = ["Answer", "Classifier", "Prediction", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("Answer", "Classifier", "Prediction"):
        from presseco import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module 'presseco' has no attribute {name!r}")
