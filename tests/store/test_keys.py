"""Keys by reference: what is accepted, what is refused, and that a key never comes out."""

import base64
import os
import pickle
import re
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import ConfigurationError, IntegrityError, VelodromeError
from velodrome.store import keys
from velodrome.store.keys import KEY_BYTES, WrappingKey, read_key

MATERIAL = bytes(range(100, 100 + KEY_BYTES))
FORMS = {
    "hex": MATERIAL.hex(),
    "upper": MATERIAL.hex().upper(),
    "base64": base64.b64encode(MATERIAL).decode(),
    "unpadded": base64.b64encode(MATERIAL).decode().rstrip("="),
    "urlsafe": base64.urlsafe_b64encode(MATERIAL).decode(),
    "newline": base64.b64encode(MATERIAL).decode() + "\n",
}


def tells(text: str) -> bool:
    """Whether a text holds the key in any form."""
    return any(form.strip() in text for form in FORMS.values()) or repr(MATERIAL)[2:-1] in text


def refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match) as failure:
        call()
    assert not tells("".join(traceback.format_exception(failure.value)) + repr(failure.value.received))
    assert failure.value.remedy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "velodrome.key"
    path.write_text(FORMS["base64"])
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_a_key_reads_from_a_file_in_each_form(file: Path, form: str) -> None:
    file.write_text(FORMS[form])
    assert read_key(f"file:{file}").id == WrappingKey(MATERIAL).id


def test_a_relative_file_is_meant_from_the_project(file: Path) -> None:
    assert read_key("file:velodrome.key", file.parent).id == WrappingKey(MATERIAL).id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_file_that_others_may_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    refused(lambda: read_key(f"file:{file}"), "others may read")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(lambda: read_key(f"file:{tmp_path / 'none'}"), "none: No such file")


def test_a_key_reads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELODROME_KEY", FORMS["hex"])
    assert read_key("env:VELODROME_KEY").id == WrappingKey(MATERIAL).id
    refused(lambda: read_key("env:VELODROME_OTHER"), "VELODROME_OTHER")


def test_a_key_reads_from_a_command(file: Path) -> None:
    assert read_key(f"command:cat '{file}'").id == WrappingKey(MATERIAL).id


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("false", "'false' gave no key"),
        ("/no/such/program --token=hidden", "cannot run '/no/such/program'"),
        ("cat 'unclosed", "quote"),
        ("echo hello; echo there", "no key of 32 bytes"),
        ("true", "no key of 32 bytes"),
    ],
)
def test_a_command_that_gives_no_key_is_an_error(command: str, match: str) -> None:
    refused(lambda: read_key(f"command:{command}"), match)
    with pytest.raises(ConfigurationError) as failure:
        read_key(f"command:{command}")
    assert "hidden" not in "".join(traceback.format_exception(failure.value))


def test_a_command_is_run_without_a_shell(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        read_key(f"command:echo x > {tmp_path / 'made'}; touch {tmp_path / 'made'}")
    assert not (tmp_path / "made").exists()


def test_a_command_that_hangs_is_ended_with_all_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(keys, "_COMMAND_SECONDS", 0.3)
    program = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    script = tmp_path / "hang.sh"
    script.write_text(f'#!/bin/sh\n"{sys.executable}" -c "{program}"\n')
    script.chmod(0o700)
    refused(lambda: read_key(f"command:{script}"), "within")
    with suppress(psutil.NoSuchProcess, FileNotFoundError, ValueError):  # the last two: it had not even begun
        started = psutil.Process(int((tmp_path / "pid").read_text()))
        for _ in range(30_000):
            if started.status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.01)
        pytest.fail("what the command started lives on")


@pytest.mark.parametrize("reference", ["", "velodrome.key", "vault:secret/x", "file:", "env:", "command:", "command: "])
def test_a_reference_that_is_not_understood_says_what_is(reference: str) -> None:
    refused(lambda: read_key(reference), r"a key|words")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["", "env:", "file:", "command:", "key:"])
def test_a_key_in_the_place_of_its_reference_is_refused_and_not_shown(kind: str, form: str) -> None:
    refused(lambda: read_key(kind + FORMS[form]), "no secret any more")


@pytest.mark.parametrize(
    "text", ["", "abc", "00" * 31, "00" * 33, "zz" * 32, base64.b64encode(bytes(24)).decode(), "é" * 43]
)
def test_what_is_no_key_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("VELODROME_KEY", text)
    refused(lambda: read_key("env:VELODROME_KEY"), "no key of 32 bytes")


def test_a_key_never_comes_out() -> None:
    key = WrappingKey(MATERIAL)
    assert not tells(repr(key) + str(key) + f"{key}" + key.id)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="does not travel"):
            pickle.dumps(key, protocol)
    with pytest.raises(VelodromeError) as failure:
        WrappingKey(MATERIAL[:-1])
    assert not re.search(MATERIAL[:8].hex(), str(failure.value))


def test_a_key_is_named_by_what_it_is() -> None:
    assert WrappingKey(MATERIAL).id == WrappingKey(MATERIAL).id != WrappingKey(bytes(KEY_BYTES)).id
    assert re.fullmatch("[0-9a-f]{16}", WrappingKey(MATERIAL).id)


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=50))
def test_what_was_wrapped_opens_only_with_its_key_and_context(secret: bytes, context: bytes) -> None:
    key = WrappingKey(MATERIAL)
    wrapped = key.wrap(secret, context)
    assert key.unwrap(wrapped, context) == secret
    assert wrapped != key.wrap(secret, context)
    for other, given_context in ((WrappingKey(os.urandom(KEY_BYTES)), context), (key, context + b"x")):
        with pytest.raises(IntegrityError):
            other.unwrap(wrapped, given_context)


def test_each_flipped_bit_of_a_wrapped_key_is_found() -> None:
    key = WrappingKey(MATERIAL)
    wrapped = key.wrap(os.urandom(KEY_BYTES), b"context")
    for bit in range(len(wrapped) * 8):
        damaged = bytearray(wrapped)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            key.unwrap(bytes(damaged), b"context")
    for size in range(len(wrapped)):
        with pytest.raises(IntegrityError):
            key.unwrap(wrapped[:size], b"context")
