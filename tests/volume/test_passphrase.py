import getpass
import sys
from pathlib import Path

import pytest

from storjfs.volume import (
    FromCommand,
    FromEnvironment,
    FromFile,
    FromPrompt,
    PassphraseUnreadable,
    passphrase_source,
)

ENVIRONMENT = {"STORJFS_PASSPHRASE": "from the environment"}


def test_the_most_explicit_source_wins() -> None:
    file = Path("secret")
    assert passphrase_source("v", file=file, environ=ENVIRONMENT, terminal=True) == FromFile(file)
    assert passphrase_source("v", command="x", environ=ENVIRONMENT, terminal=True) == FromCommand("x")
    assert isinstance(passphrase_source("v", environ=ENVIRONMENT, terminal=True), FromEnvironment)
    assert passphrase_source("v", environ={}, terminal=True) == FromPrompt("v")
    assert passphrase_source("v", environ={}, terminal=False) is None


def test_file_and_command_together_are_refused() -> None:
    with pytest.raises(PassphraseUnreadable, match="not both"):
        passphrase_source("v", file=Path("secret"), command="x", environ={}, terminal=False)


@pytest.mark.parametrize("content", ["open sesame", "open sesame\n", "open sesame\r\n"])
def test_a_file_gives_its_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_bytes(content.encode())
    assert FromFile(tmp_path / "secret").read() == "open sesame"


def test_white_space_and_further_lines_belong_to_the_passphrase(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b" two\nlines \n\n")
    assert FromFile(tmp_path / "secret").read() == " two\nlines \n"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_an_empty_or_binary_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(PassphraseUnreadable):
        FromFile(tmp_path / "secret").read()


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PassphraseUnreadable, match="No such file"):
        FromFile(tmp_path / "secret").read()


def test_a_command_gives_what_it_prints() -> None:
    assert FromCommand(f"{sys.executable} -c 'print(\"open sesame\")'").read() == "open sesame"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("false", "exit code 1"),
        ("sh -c 'kill -TERM $$'", "was ended by SIGTERM"),
        ("/nonexistent/program", "cannot be run: /nonexistent/program: No such file or directory$"),
        ("", "is empty"),
        ("unclosed '", "No closing quotation"),
        ("true", "empty passphrase"),
    ],
)
def test_a_command_that_gives_nothing_is_told(command: str, said: str) -> None:
    with pytest.raises(PassphraseUnreadable, match=said):
        FromCommand(command).read()


def test_the_environment_gives_its_value_and_does_not_show_it() -> None:
    source = FromEnvironment("open sesame")
    assert source.read() == "open sesame"
    assert "sesame" not in repr(source)
    with pytest.raises(PassphraseUnreadable):
        FromEnvironment("").read()


def typed(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return answers[len(asked) - 1]

    monkeypatch.setattr(getpass, "getpass", answer)
    return asked


def test_the_prompt_asks_once_for_a_known_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = typed(monkeypatch, "open sesame")
    assert FromPrompt("photos").read() == "open sesame"
    assert len(asked) == 1
    assert "photos" in asked[0]


def test_the_prompt_asks_twice_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = typed(monkeypatch, "open sesame", "open sesame")
    assert FromPrompt("photos").read(new=True) == "open sesame"
    assert len(asked) == 2


def test_two_different_new_passphrases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "open sesame", "open sesamy")
    with pytest.raises(PassphraseUnreadable, match="differ"):
        FromPrompt("photos").read(new=True)


def test_an_interrupted_prompt_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(getpass, "getpass", interrupted)
    with pytest.raises(PassphraseUnreadable, match="typed"):
        FromPrompt("photos").read()


def test_an_empty_passphrase_has_the_hint_that_fits(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    with pytest.raises(PassphraseUnreadable) as caught:
        FromFile(tmp_path / "secret").read(new=True)
    assert "--no-passphrase" in caught.value.hint
    with pytest.raises(PassphraseUnreadable) as caught:
        FromFile(tmp_path / "secret").read()
    assert "--no-passphrase" not in caught.value.hint
    assert "passphrase change --phrase-file FILE" in caught.value.hint


def test_a_file_that_others_may_read_is_noticed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open sesame")
    for mode, exposed in ((0o600, False), (0o640, True), (0o604, True), (0o400, False)):
        secret.chmod(mode)
        assert FromFile(secret).exposed is exposed
    assert not FromFile(tmp_path / "none").exposed
