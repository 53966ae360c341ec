"""The kit as a wheel, made here without a build: the same files give the same bytes, and a name that says which.

The name's build tag is a hash of the content (salt_kit-0.1.0-0x1a2b3c4d-py3-none-any.whl): a kernel asks for its own
kit by name, and no upload or dataset can pass off an older one. Format: PEP 427.
"""

import base64
import hashlib
import io
import zipfile
from pathlib import Path

import kit

PACKAGE = Path(kit.__file__).parent
KINDS = (".py", ".toml", ".csv")
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


def build() -> tuple[str, bytes]:
    """The file name and the content of the wheel of the kit that is running; without its requirements."""
    paths = sorted(path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix in KINDS)
    members = {path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in paths}
    info = f"salt_kit-{kit.__version__}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: salt-kit\nVersion: {kit.__version__}\n"
    members[f"{info}/METADATA"] = metadata.encode()
    tag = "0x" + hashlib.sha256(b"".join(_row(*member).encode() for member in members.items())).hexdigest()[:8]
    members[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: salt-kit\nRoot-Is-Purelib: true\nBuild: {tag}\nTag: py3-none-any\n"
    ).encode()
    record = "".join(_row(*member) for member in members.items()) + f"{info}/RECORD,,\n"
    members[f"{info}/RECORD"] = record.encode()
    return f"salt_kit-{kit.__version__}-{tag}-py3-none-any.whl", _zipped(members)


def _row(name: str, content: bytes) -> str:
    """A line of RECORD: name, hash, size in bytes."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def _zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()
