"""The story of a verdict that is asked for again: recorded once, and answered from the record while nothing changed.

A verdict is recorded under the digests of all that it depends on: the port's files, the checkpoint's, the options,
porter's own code, and the versions of what computes. Where they lie does not matter, so a record that was carried to
another machine holds there. What a device computed, and what a signature is worth, is found out anew each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from porter import __version__
from porter.digests import Digests, cache_folder, read_object, write_object
from porter.package.files import CHECKPOINT, MANIFEST, PARTS, SIGNATURE, to_json

COMPUTING = ("numpy", "onnx", "onnx-ir", "onnxruntime", "tokenizers", "torch", "transformers")
# Options whose answer depends on what is in no file, or that write one:
UNRECORDED = ("provider", "public_key", "runtime", "save_routes")
READ = (".json", ".safetensors")  # all that a verification reads of a checkpoint
FORM = 1  # of a record

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """The digests of what is compared; `port` over a list of its files as sha256sum writes it, sorted by name. Of the
    checkpoint none where nothing is looked up by them.
    """

    port: str
    checkpoint: Mapping[str, str]


def verify(
    port: Path,
    against: Path,
    *,
    levels: Sequence[str],
    fresh: bool = False,
    watch: Watch = lambda stage: None,
    **options: Any,
) -> tuple[dict[str, Any], int]:
    """The document of a verdict and its exit code: the recorded one where there is one, unless a `fresh` one is wanted.

    Raises what `porter.verify.verify` does, whose `options` these are.
    """
    begun = time.monotonic()
    if (folder := options.get("bisect")) is not None:  # before digests are taken, which may take minutes
        from porter.verify.conditions import check_free

        check_free(folder, levels)
    watch("taking digests")
    digests = Digests(cache_folder())
    record, recordable = None, _recordable(options)
    subject = _subject(digests, port, against if recordable else None)
    if subject is not None and recordable:
        record = cache_folder() / "verdicts" / f"{_key(digests, subject, levels, options)}.json"
    if record is not None and not fresh and (found := _found(record)):
        where = {"port": str(port), "against": str(against), "seconds": round(time.monotonic() - begun, 3)}
        return found["document"] | where, found["exit_code"]
    from porter.verify import verify as story  # seconds of imports, which a record does without

    report = story(port, against, levels=levels, watch=watch, **options)
    report = replace(report, versions=versions(), port_sha256=subject.port if subject else None)
    document = report.to_json()
    if record is not None and _subject(digests, port, against) == subject:  # nothing was changed meanwhile
        write_object(record, {"form": FORM, "exit_code": report.exit_code, "document": document, "at": _now()})
    return document, report.exit_code


def replay(folder: Path, against: Path | None) -> tuple[dict[str, Any], int]:
    """The document and exit code of a block that `bisect` saved: run anew each time, for it is there to be changed.

    Raises what `porter.verify.replay_block` does.
    """
    from porter.verify import replay_block

    report = replace(replay_block(folder, against), versions=versions())
    return report.to_json(), report.exit_code


def versions() -> dict[str, str | None]:
    """Of all that computes; None of what is not installed. Nothing is imported for it."""
    found: dict[str, str | None] = {"porter": __version__, "python": platform.python_version()}
    return found | {name: _version(name) for name in COMPUTING}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
    # A build for some device has a name of its own, as onnxruntime-gpu, for the same package:
    others = metadata.packages_distributions().get(name.replace("-", "_"), [])
    return f"{others[0]} {metadata.version(others[0])}" if others else None


def _recordable(options: Mapping[str, Any]) -> bool:
    """A path that is no file is one that is to be written, which an answer from a record would not do."""
    paths = [value for value in options.values() if isinstance(value, Path)]
    return not any(options.get(name) for name in UNRECORDED) and all(path.is_file() for path in paths)


def _found(record: Path) -> dict[str, Any] | None:
    """A record that can be answered from, its document with the time that it is from."""
    found = read_object(record)
    document, code = found.get("document"), found.get("exit_code")
    if found.get("form") != FORM or not isinstance(document, dict) or code not in (0, 1, 3):
        return None
    said = f"recorded {found['at']}, when it took {document['seconds']:.1f} s; --fresh verifies anew"
    return {"exit_code": code, "document": document | {"recorded": found["at"], "notes": [*document["notes"], said]}}


def _key(digests: Digests, subject: Subject, levels: Sequence[str], options: Mapping[str, Any]) -> str:
    """One number for everything that a verdict depends on."""
    contents = digests.of(value for value in options.values() if isinstance(value, Path))
    material = {
        "form": FORM,
        "port": subject.port,
        "checkpoint": subject.checkpoint,
        "levels": list(levels),
        "options": {n: [v.suffix, contents[v]] if isinstance(v, Path) else v for n, v in options.items()},
        "versions": versions(),
        "code": _code(),
        "machine": platform.machine(),
    }
    return _sha256(json.dumps(material, sort_keys=True))


def _subject(digests: Digests, port: Path, against: Path | None) -> Subject | None:
    """None where either is not what it should be, which the verification says better."""
    try:
        manifest = json.loads((port / MANIFEST).read_bytes())
        names = {str(entry["file"]) for part in PARTS for entry in manifest[part]}
        names |= {SIGNATURE} & set(os.listdir(port))
        files = {p.relative_to(port).as_posix(): d for p, d in digests.of(port / name for name in names).items()}
        files[MANIFEST] = hashlib.sha256(_completed(port, manifest, files)).hexdigest()
        read = _of_checkpoint(against) if against else ()
        theirs = digests.of(path for path in read if path.suffix in READ and path.is_file())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return Subject(_sha256(listed), {path.name: digest for path, digest in sorted(theirs.items())})


def _completed(port: Path, manifest: Mapping[str, Any], files: Mapping[str, str]) -> bytes:
    """The manifest as it is once the digests are in it that the first verification takes, of referenced shards."""
    missing = [e for e in (*manifest["weights"], *manifest["source"]["files"]) if e.get("sha256", "") is None]
    if not missing:
        return (port / MANIFEST).read_bytes()
    for entry in missing:
        entry["sha256"] = files[entry["file"]]
    return to_json(dict(manifest))


def _of_checkpoint(folder: Path) -> list[Path]:
    """Its files, without those of a port that was made inside it."""
    made = {MANIFEST, SIGNATURE}
    manifest = read_object(folder / MANIFEST)
    for part in PARTS:
        made |= {str(entry["file"]) for entry in manifest.get(part, []) if entry.get("of") != CHECKPOINT}
    return [path for path in folder.iterdir() if path.name not in made]


def _code() -> str:
    """Porter's own files: a version that is under way is another with every change."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in {".py", ".txt"}):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
