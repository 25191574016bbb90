"""`--sign` and `--public-key`: who holds the key says that these are the files, all of them and as they were made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Outcome, digests, run

pytest.importorskip("model_signing")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

SIGNATURE = "porter.sig"


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: str = "") -> bytes:
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


def key_pair(folder: Path, curve: ec.EllipticCurve) -> tuple[Path, Path]:
    key = ec.generate_private_key(curve)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    folder.mkdir()
    (folder / "key.pem").write_bytes(private_pem(key))
    (folder / "key.pub").write_bytes(public)
    return folder / "key.pem", folder / "key.pub"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return key_pair(tmp_path_factory.mktemp("keys") / "ours", ec.SECP256R1())


@pytest.fixture
def public(keys: tuple[Path, Path]) -> Path:
    return keys[1]


@pytest.fixture(scope="module")
def signed(llama: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    port = tmp_path_factory.mktemp("signed") / "port"
    assert convert(llama, port, "--sign", keys[0]).json()["signature"] == SIGNATURE
    return port


@pytest.fixture
def port(signed: Path, tmp_path: Path) -> Path:
    """A signed port, to be harmed; it may have another name."""
    return Path(shutil.copytree(signed, tmp_path / "copy"))


def convert(checkpoint: Path, port: Path, *more: object) -> Outcome:
    return run("convert", checkpoint, "--target", "onnxruntime-cpu", "-o", port, "--json", *more)


def verify(port: Path, checkpoint: Path, public: Path, level: str = "weights") -> Outcome:
    return run("verify", port, "--against", checkpoint, "--level", level, "--public-key", public, "--json")


def verdict(found: Outcome) -> tuple[int, str]:
    """The exit code, and what is said of the signature."""
    (check,) = [c for c in found.json()["levels"][0]["checks"] if c["name"] == "flaws of the signature"]
    assert (check["status"] == "pass") == (check["value"] == 0)
    return found.code, check["detail"]


# ------------------------------------------------------------------ a port that is signed


def test_a_signed_port_holds(port: Path, llama: Path, public: Path) -> None:
    assert verdict(verify(port, llama, public)) == (0, "")


def test_nothing_else_of_a_port_is_changed_by_signing(signed: Path, llama_port: Path) -> None:
    found = digests(signed)
    assert found.pop(SIGNATURE)
    assert found == digests(llama_port)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_other_curves(curve: ec.EllipticCurve, llama: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path / "keys", curve)
    assert convert(llama, tmp_path / "port", "--sign", private).code == 0
    assert verdict(verify(tmp_path / "port", llama, public)) == (0, "")


def test_a_signed_port_is_a_port_like_any_other(port: Path, llama: Path) -> None:
    assert run("inspect", port).code == 0
    assert run("verify", port, "--against", llama, "--tokens", 2).code == 0


def test_the_whole_verdict_with_a_key(port: Path, llama: Path, public: Path) -> None:
    assert verdict(verify(port, llama, public, "all")) == (0, "")


def test_what_signed_it_is_said_in_words(llama: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    done = run("convert", llama, "--target", "onnxruntime-cpu", "-o", tmp_path / "port", "--sign", keys[0])
    assert SIGNATURE in done.out


def test_the_tool_of_the_specification_accepts_it(port: Path, public: Path) -> None:
    given = [sys.executable, "-m", "model_signing", "verify", "key", port, "--signature", port / SIGNATURE]
    assert subprocess.run([*given, "--public_key", public], capture_output=True, check=False).returncode == 0
    (port / "model.onnx").write_bytes(b"another")
    assert subprocess.run([*given, "--public_key", public], capture_output=True, check=False).returncode != 0


def test_hidden_files_that_tools_leave_do_not_matter(port: Path, llama: Path, public: Path) -> None:
    (port / ".cache").mkdir()
    (port / ".cache" / "download.lock").touch()
    (port / ".gitattributes").touch()
    assert verdict(verify(port, llama, public)) == (0, "")


# ------------------------------------------------------------------ one that was tampered with


def changed(port: Path) -> None:
    data = bytearray((port / "weights-00001-of-00001.safetensors").read_bytes())
    data[-1] ^= 1
    (port / "weights-00001-of-00001.safetensors").write_bytes(data)


def manifest_changed(port: Path) -> None:
    manifest = json.loads((port / "porter.json").read_text())
    (port / "porter.json").write_text(json.dumps(manifest | {"target": "another"}))


def added(port: Path) -> None:
    (port / "sub").mkdir()
    (port / "sub" / "custom.so").write_bytes(b"code")


def linked(port: Path) -> None:
    (port / "elsewhere").symlink_to("/")


def removed(port: Path) -> None:
    """So that nobody notices: from the manifest, too."""
    manifest = json.loads((port / "porter.json").read_text())
    manifest["files"] = [e for e in manifest["files"] if e["file"] != "config.json"]
    (port / "porter.json").write_text(json.dumps(manifest))
    (port / "config.json").unlink()


def unsigned(port: Path) -> None:
    (port / SIGNATURE).unlink()


def garbage(port: Path) -> None:
    (port / SIGNATURE).write_bytes(b"\x00\xff" * 100)


def empty_json(port: Path) -> None:
    (port / SIGNATURE).write_text("{}")


def payload_changed(port: Path) -> None:
    bundle = json.loads((port / SIGNATURE).read_text())
    bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"][::-1]
    (port / SIGNATURE).write_text(json.dumps(bundle))


def said_to_lie_in_a_checkpoint(port: Path) -> None:
    """There, files that the manifest does not list may lie about."""
    manifest = json.loads((port / "porter.json").read_text())
    for entry in manifest["files"]:
        entry["of"] = "checkpoint"
    (port / "porter.json").write_text(json.dumps(manifest))
    (port / "custom.so").write_bytes(b"code")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (changed, "weights-00001-of-00001.safetensors was changed"),
        (manifest_changed, "porter.json was changed"),
        (added, "sub/custom.so was not signed"),
        (linked, "elsewhere was not signed"),
        (removed, "config.json is missing, porter.json was changed"),
        (unsigned, "there is no porter.sig"),
        (garbage, "was made with another key, or is damaged"),
        (empty_json, "was made with another key, or is damaged"),
        (payload_changed, "was made with another key, or is damaged"),
        (said_to_lie_in_a_checkpoint, "porter.json was changed"),
    ],
)
def test_tampering_is_found(harm: Callable[[Path], None], says: str, port: Path, llama: Path, public: Path) -> None:
    harm(port)
    code, said = verdict(verify(port, llama, public))
    assert code == 1
    assert said.endswith(says)


def test_a_signature_by_somebody_else(port: Path, llama: Path, tmp_path: Path) -> None:
    _, public = key_pair(tmp_path / "theirs", ec.SECP256R1())
    code, said = verdict(verify(port, llama, public))
    assert code == 1
    assert "was made with another key" in said


def test_a_signature_of_other_files_by_the_same_key(
    port: Path, llama: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    assert convert(llama, tmp_path / "half", "--dtype", "float16", "--sign", keys[0]).code == 0
    shutil.copy(tmp_path / "half" / SIGNATURE, port)
    code, said = verdict(verify(port, llama, keys[1]))
    assert code == 1
    assert "model.onnx was changed" in said


# ------------------------------------------------------------------ by reference, in the checkpoint's folder


@pytest.fixture
def in_place(llama: Path, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    source = Path(shutil.copytree(llama, tmp_path / "checkpoint"))
    (source / "README.md").write_text("not the port's")
    before = digests(source)
    assert convert(source, source, "--weights", "reference", "--sign", keys[0]).code == 0
    assert before.items() <= digests(source).items()
    return source


def test_signing_takes_the_digests_of_shards(in_place: Path, public: Path) -> None:
    """Those that the first verify would else write into porter.json, which is signed."""
    before = digests(in_place)
    assert verdict(verify(in_place, in_place, public)) == (0, "")
    assert digests(in_place) == before
    assert all(e["sha256"] for e in json.loads((in_place / "porter.json").read_text())["weights"])


def test_files_that_the_port_carries_are_covered_and_others_are_not(in_place: Path, public: Path) -> None:
    (in_place / "README.md").write_text("edited")
    assert verdict(verify(in_place, in_place, public)) == (0, "")
    (in_place / "generation_config.json").write_text("{}")
    assert verdict(verify(in_place, in_place, public)) == (1, "generation_config.json was changed")


def test_a_shard_that_changed_is_not_what_was_signed(in_place: Path, public: Path) -> None:
    data = bytearray((in_place / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (in_place / "model.safetensors").write_bytes(data)
    assert verdict(verify(in_place, in_place, public)) == (1, "model.safetensors was changed")


def test_force_replaces_the_signature_with_the_port(in_place: Path, public: Path, keys: tuple[Path, Path]) -> None:
    assert convert(in_place, in_place, "--weights", "reference", "--sign", keys[0], "--force").code == 0
    assert verdict(verify(in_place, in_place, public)) == (0, "")
    assert convert(in_place, in_place, "--weights", "reference", "--force").code == 0
    assert not (in_place / SIGNATURE).exists()


def test_a_signature_that_is_in_the_way(llama: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(llama, tmp_path / "checkpoint"))
    (source / SIGNATURE).write_text("of another tool")
    refusal = convert(source, source, "--weights", "reference", "--sign", keys[0]).refusal()
    assert "has a 'porter.sig' already" in refusal


# ------------------------------------------------------------------ keys that are none


def not_there(path: Path) -> None:
    return None


def a_folder(path: Path) -> None:
    path.mkdir()


def no_pem(path: Path) -> None:
    path.write_text("secret")


def rsa_key(path: Path) -> None:
    path.write_bytes(private_pem(rsa.generate_private_key(65537, 2048)))


def other_curve(path: Path) -> None:
    path.write_bytes(private_pem(ec.generate_private_key(ec.SECP256K1())))


def encrypted(path: Path) -> None:
    path.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), "password"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (not_there, "cannot be read: No such file"),
        (a_folder, "cannot be read: Is a directory"),
        (no_pem, "is no private key"),
        (rsa_key, "is no private key of an elliptic curve"),
        (other_curve, "is no private key of an elliptic curve"),
        (encrypted, "private key is encrypted"),
    ],
)
def test_a_key_that_is_none_is_refused_before_any_work(
    make: Callable[[Path], None], says: str, llama: Path, tmp_path: Path
) -> None:
    make(tmp_path / "key")
    refusal = convert(llama, tmp_path / "ports" / "port", "--sign", tmp_path / "key").refusal()
    assert says in refusal
    assert "openssl ecparam" in refusal
    assert not (tmp_path / "ports").exists()


@pytest.mark.parametrize("make", [not_there, a_folder, no_pem, rsa_key])
def test_a_public_key_that_is_none(make: Callable[[Path], None], port: Path, llama: Path, tmp_path: Path) -> None:
    make(tmp_path / "key")
    assert "public key" in verify(port, llama, tmp_path / "key").refusal()


def test_a_private_key_is_no_public_key(port: Path, llama: Path, keys: tuple[Path, Path]) -> None:
    assert "is no public key" in verify(port, llama, keys[0]).refusal()


def test_a_level_that_does_not_look_at_the_signature(port: Path, llama: Path, public: Path) -> None:
    assert "--level weights or all" in verify(port, llama, public, "semantics").refusal()


def test_without_the_package(port: Path, llama: Path, public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert "pip install 'porter[sign]'" in verify(port, llama, public).refusal()


# ------------------------------------------------------------------ interrupted


def test_a_port_that_is_gone_on_with_is_signed_only_if_asked(
    llama: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("porter.package.folder._put_in_place", interrupt)
        assert convert(llama, tmp_path / "port", "--sign", keys[0]).code == 130
    assert list(tmp_path.rglob(SIGNATURE))
    assert convert(llama, tmp_path / "port").json()["signature"] is None
    assert not (tmp_path / "port" / SIGNATURE).exists()


# ------------------------------------------------------------------ a signed port that is compiled


def test_compiling_a_signed_port_signs_it_anew(
    llama: Path, keys: tuple[Path, Path], public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, atc = tmp_path / "port", tmp_path / "bin" / "atc"
    arguments = ["convert", llama, "--target", "ascend-910b4", "-o", port, "--shape", "context=32", "--sign", keys[0]]
    assert run(*arguments).code == 0
    atc.parent.mkdir()
    atc.write_text("#!/bin/sh\necho compiled > decode.om\n")
    atc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{atc.parent}:/usr/bin:/bin")
    refusal = run("compile", port, "--json").refusal()
    assert "is signed, and compiling adds to it" in refusal
    assert verify(port, llama, public).code == 0, "nothing was changed"
    assert run("compile", port, "--sign", keys[0]).code == 0
    assert verify(port, llama, public).code == 0
