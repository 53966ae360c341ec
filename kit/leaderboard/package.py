"""What is published for kernels: the kit as a wheel, encoder weights, a trained run; each file named by its content.

Names with a hash let a kernel ask for exactly what it was pushed with, show without a download what a dataset holds,
and keep an upload or a mount from passing off an older file.
"""

import base64
import hashlib
import io
import shutil
import zipfile
from pathlib import Path

import pandas as pd

import kit
from kit.errors import InputError
from kit.runs import Run, atomic_path

PACKAGE = Path(kit.__file__).parent
KINDS = (".py", ".toml", ".csv", ".j2", ".css", ".js")
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: the same content gives the same bytes


def wheel() -> tuple[str, bytes]:
    """The name and the bytes of a wheel (PEP 427) of the kit that is running, without its requirements.

    The hash is its build tag: salt_kit-0.1.0-0x1a2b3c4d-py3-none-any.whl.
    """
    paths = sorted(path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix in KINDS)
    members = {path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in paths}
    info = f"salt_kit-{kit.__version__}.dist-info"
    members[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: salt-kit\nVersion: {kit.__version__}\n".encode()
    tag = "0x" + hashlib.sha256(b"".join(_row(*member).encode() for member in members.items())).hexdigest()[:8]
    members[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: salt-kit\nRoot-Is-Purelib: true\nBuild: {tag}\nTag: py3-none-any\n"
    ).encode()
    record = "".join(_row(*member) for member in members.items()) + f"{info}/RECORD,,\n"
    members[f"{info}/RECORD"] = record.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(_entry(name), content, zipfile.ZIP_DEFLATED)
    return f"salt_kit-{kit.__version__}-{tag}-py3-none-any.whl", buffer.getvalue()


def encoder_name(arch: str, path: Path) -> str:
    """The name to publish a file of encoder weights under: encoder-resnet34-1a2b3c4d.safetensors."""
    return f"encoder-{arch}-{_hash([path])}{path.suffix}"


def pack_run(run: Run, placement: pd.DataFrame | None, folder: Path) -> Path:
    """Write what predicting with a run needs to folder/NAME-1a2b3c4d.run, a zip, and return its path.

    placement: the tiles' places in mosaics, for a decision with mosaic rules. Kaggle would unpack a file called .zip.
    Raises InputError for an ensemble and for a run without a finished fold.
    """
    if (run / "ensemble.json").exists():
        raise InputError(f"{run.path} is an ensemble and has no weights: push one of its runs")
    scores = run.scores()["folds"]
    folds = {"none" if fold is None else str(fold): fold for fold in run.finished_folds()}
    weights = [path for name, fold in folds.items() for path in run.weights(fold, scores[name]["weights"])]
    if not weights:
        raise InputError(f"{run.path} has no finished fold: go on with scripts/train.py --run {run.given} --resume")
    files = [run / name for name in ("recipe.toml", "scores.json", "decision.json")]
    files = [path for path in files if path.exists()] + weights
    out = folder / f"{run.name}-{_hash(files)}.run"
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in files:
            with archive.open(_entry(path.relative_to(run.path).as_posix()), "w", force_zip64=True) as to:
                with open(path, "rb") as content:
                    shutil.copyfileobj(content, to)
        if placement is not None:
            archive.writestr(_entry("mosaic.csv"), placement.to_csv(index=False))
    return out


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, FIXED_TIME)
    entry.external_attr = 0o644 << 16
    return entry


def _row(name: str, content: bytes) -> str:
    """A line of RECORD: name, hash, size in bytes."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def _hash(paths: list[Path]) -> str:
    """Eight hex digits of the names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:8]
