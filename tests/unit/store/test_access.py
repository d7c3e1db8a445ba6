"""Who this machine is to a store: secrets from files, read anew, refused when others can read them."""

from __future__ import annotations

import pytest

from meshagent.errors import StoreDenied
from meshagent.store.access import Access


def secret(tmp_path, text="s3cret\n", mode=0o600):
    path = tmp_path / "token"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_nothing_configured_is_nobody():
    assert (Access().token(), Access().password(), Access().tls) == ("", "", False)


def test_a_secret_is_the_text_of_its_file_as_it_is_now(tmp_path):
    path = secret(tmp_path)
    access = Access(token_file=path, password_file=path)
    assert (access.token(), access.password()) == ("s3cret", "s3cret")
    path.write_text("another")
    assert access.token() == "another"


def test_a_secret_that_others_can_read_is_refused_with_the_cure(tmp_path):
    path = secret(tmp_path, mode=0o644)
    with pytest.raises(StoreDenied, match="store_token_file") as told:
        Access(token_file=path).token()
    assert "chmod" in told.value.next_step


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_secret_that_is_not_there_or_no_file_is_said_by_the_name_of_its_key(tmp_path, make):
    make(tmp_path / "none")
    with pytest.raises(StoreDenied, match="store_password_file") as told:
        Access(password_file=tmp_path / "none").password()
    assert told.value.next_step


def test_a_secret_that_is_not_text_is_refused_and_not_shown(tmp_path):
    with pytest.raises(StoreDenied, match="does not hold text") as told:
        Access(token_file=secret(tmp_path, b"\xff\xfe")).token()
    assert "\\xff" not in str(told.value)


def test_any_of_the_tls_files_asks_for_tls(tmp_path):
    assert Access(ca_file=tmp_path).tls
    assert Access(key_file=tmp_path).tls
