"""Signs a port and checks its signature: offline, with a key in a file, in the form of the OpenSSF Model Signing
specification 1.0 (https://github.com/ossf/model-signing-spec), by its own package.

`porter.sig` covers porter.json and every file that it lists, with the SHA-256 that were taken as the files were
written: nothing is read twice to be signed.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from porter.errors import PortError
from porter.package.execute import cores
from porter.package.files import CHECKPOINT, MANIFEST, PARTS, SIGNATURE, digest_of

NEW_KEY = "make one: openssl ecparam -name prime256v1 -genkey -noout -out KEY; openssl ec -in KEY -pubout -out PUB"
FORM = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE]}


class Signer:
    """Signs with a private key: PEM, on the curve P-256, P-384 or P-521, not encrypted.

    Raises PortError when the file holds none, or the package is not installed.
    """

    def __init__(self, key: Path) -> None:
        self._signing = _package().signing.Config()
        with _key("private", key):
            self._signing.use_elliptic_key_signer(private_key=key)

    def sign(self, folder: Path, manifest: Mapping[str, Any], name: str) -> None:
        """Writes the signature of a port called `name` into `folder`, where porter.json lies already."""
        digests = {entry["file"]: entry["sha256"] for part in PARTS for entry in manifest[part]}
        digests[MANIFEST] = digest_of(folder / MANIFEST)["sha256"]
        self._signing.set_hashing_config(_known(digests, name)).sign(folder, folder / SIGNATURE)
        with (folder / SIGNATURE).open("rb") as file:
            os.fsync(file.fileno())


class Verifier:
    """Checks signatures with a public key: PEM. Raises PortError as Signer does."""

    def __init__(self, key: Path) -> None:
        self._verifying = _package().verifying.Config()
        with _key("public", key):
            self._verifying.use_elliptic_key_verifier(public_key=key)

    def flaws(self, folder: Path, manifest: Mapping[str, Any]) -> list[str]:
        """What is wrong with the signature of a port, and which files it does not hold for; nothing when it holds.

        Of a port in the checkpoint's folder, the files that porter.json lists are looked at; in a folder of its own all
        but those that are hidden, which tools leave behind and nothing reads.
        """
        path = folder / SIGNATURE
        if not path.is_file():
            return [f"there is no {SIGNATURE}"]
        digests = _digests(folder, manifest)
        self._verifying.set_hashing_config(_known(digests, folder.name))
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # where the package warns
                self._verifying.verify(folder, path)
        except Exception as error:  # the package lets through whatever a damaged file leads to
            return _different(path, digests, error)
        return []


def _package() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise PortError(f"signatures need the package model-signing: {error}", "pip install 'porter[sign]'") from None
    return model_signing


@contextlib.contextmanager
def _key(kind: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PortError(f"the {kind} key '{path}' cannot be read: {error.strerror}", NEW_KEY) from None
    except Exception as error:  # another kind of key is found out by what its class lacks
        why = str(error).strip().split("\n")[0]
        raise PortError(f"'{path}' is no {kind} key of an elliptic curve in PEM: {why}", NEW_KEY) from None


def _known(digests: Mapping[str, str], name: str) -> Any:
    """What the package asks for the digests of a folder, answering with those that are known."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest  # no public name leads to it

    form = manifest.SerializationType.from_args(FORM)
    items = [form.new_item(file, Digest("sha256", bytes.fromhex(digest))) for file, digest in digests.items()]

    class Known(hashing.Config):  # type: ignore[misc]  # the package need not be installed
        def hash(self, model_path: object, *, files_to_hash: object = None) -> manifest.Manifest:
            return manifest.Manifest(name, items, form)

    return Known()


def _digests(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of the files that must be signed; an empty one for what is no file."""
    names = {MANIFEST, *(entry["file"] for part in PARTS for entry in manifest[part])}
    if not any(entry.get("of") == CHECKPOINT for entry in manifest["files"]):  # it does not lie in a checkpoint
        there = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        names |= {path.as_posix() for path in there if not path.parts[0].startswith(".")} - {SIGNATURE}
    with ThreadPoolExecutor(cores()) as pool:
        found = pool.map(lambda name: digest_of(folder / name)["sha256"] if (folder / name).is_file() else "", names)
        return dict(zip(names, found, strict=True))


def _different(path: Path, digests: Mapping[str, str], error: Exception) -> list[str]:
    """What differs from what was signed, where the signature itself is good."""
    if not str(error).startswith("Signature mismatch"):
        return [f"{SIGNATURE} was made with another key, or is damaged"]
    payload = json.loads(base64.b64decode(json.loads(path.read_bytes())["dsseEnvelope"]["payload"]))
    signed = {entry["name"]: entry["digest"] for entry in payload["predicate"]["resources"]}
    words = {(True, True): "was changed", (True, False): "is missing", (False, True): "was not signed"}
    return [
        f"{name} {words[name in signed, name in digests]}"
        for name in sorted(signed.keys() | digests.keys())
        if signed.get(name) != digests.get(name)
    ]
