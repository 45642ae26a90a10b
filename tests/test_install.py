"""The package as another service installs it: wheel and sdist, a fresh venv, another folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

SERVICE = """
import json, sys
from importlib.metadata import distributions
from pathlib import Path
from presseco import Classifier

bundle = Path(sys.argv[1])
rows = [json.loads(line) for line in (bundle / "golden.jsonl").open(encoding="utf-8")]
model = Classifier.load(bundle, precision="fp32")
logits = model.logits([r["text"] for r in rows])
worst = max(abs(float(a) - b) for x, r in zip(logits, rows) for a, b in zip(x, r["logits"]["fp32"]))
print(json.dumps({
    "worst": worst,
    "label": model.predict(["Le CAC 40 recule."])[0]["sector"].label,
    "packages": sorted(d.metadata["Name"].lower() for d in distributions()),
    "from": sys.modules["presseco"].__file__,
}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return out


def test_wheel_and_sdist_hold_what_they_must(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        (meta,) = [n for n in names if n.endswith("METADATA")]
        requires = [x for x in z.read(meta).decode().splitlines() if x.startswith("Requires-Dist")]
    assert {"presseco/py.typed", "presseco/classifier.py", "presseco/serve.py"} <= set(names)
    base = sorted(r.split()[1].split(">")[0] for r in requires if "extra ==" not in r)
    assert base == ["numpy", "onnxruntime", "tokenizers"]
    with tarfile.open(sdist) as t:
        inside = {n.split("/", 1)[-1] for n in t.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "src/presseco/classifier.py"} <= inside


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_fresh_venv_in_another_folder(
    built: Path, tiny_bundle: Path, tmp_path: Path, kind: str
) -> None:
    (package,) = built.glob(kind)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", str(package)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    run = [python, "-I", "-c", SERVICE, str(tiny_bundle)]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["worst"] <= 1e-4
    assert found["label"]
    assert str(tmp_path) in found["from"]
    assert not {"torch", "transformers", "mlflow", "pandas", "scikit-learn"} & set(
        found["packages"]
    )
