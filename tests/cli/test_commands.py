"""What the commands say and return where nothing needs to be mounted."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from storjfs.cli import volumes
from storjfs.settlement import Ledger
from tests.cli.home import Home, home_in


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_in(tmp_path) as made:
        yield made


def words_in(text: str) -> list[str]:
    """The recovery phrase in what init printed."""
    lines = [line.split() for line in text.splitlines() if line.startswith("    ")]
    return [word for line in lines for word in line if word.isalpha()]


def test_version_and_help(home: Home) -> None:
    assert "0.1" in home.do("--version")
    overview = home.do("--help")
    for command in ("mount", "umount", "status", "init", "farm", "audit", "repair", "contracts", "flush"):
        assert command in overview


@pytest.mark.parametrize(
    "command", ["mount", "umount", "status", "init", "audit", "repair", "contracts", "volumes"]
)
def test_each_command_explains_itself(home: Home, command: str) -> None:
    assert "Usage: storjfs" in home.do(command, "--help")


def test_an_unknown_command_or_option_is_code_2(home: Home) -> None:
    assert home.run("dance").returncode == 2
    assert home.run("status", "--loudly").returncode == 2
    near = home.run("statsu")
    assert (near.returncode, "Did you mean 'status'?" in near.stderr) == (2, True)


def test_a_volume_that_is_not_there_has_names_that_are_near(home: Home) -> None:
    home.do("init", "--volume", "photos")
    near = home.run("status", "--volume", "photo")
    assert near.returncode == 8
    assert "--volume photos?" in near.stderr
    far = home.run("flush", "--volume", "nope")
    assert "storjfs volumes" in far.stderr
    assert "storjfs init --volume nope" in far.stderr


def test_a_passphrase_file_that_others_may_read_is_a_warning(home: Home, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("one")
    (tmp_path / "word").chmod(0o644)
    done = home.run("init", "--passphrase-file", str(tmp_path / "word"))
    assert done.returncode == 0
    assert "chmod 600" in done.stderr
    (tmp_path / "word").chmod(0o600)
    assert home.run("status", "--passphrase-file", str(tmp_path / "word")).stderr == ""


def test_init_shows_the_phrase_once_and_keeps_the_key_private(home: Home) -> None:
    said = home.do("init")
    words = words_in(said)
    assert len(words) == 24
    for place in (1, 24):
        assert re.search(rf"\b{place}\. {words[place - 1]}\b", said)
    assert "--no-passphrase" in said
    assert "on this machine" in said.replace("\n", " ")
    assert stat.S_IMODE((home.data() / "key").stat().st_mode) == 0o600


def test_a_second_init_touches_nothing(home: Home) -> None:
    home.do("init")
    before = (home.data() / "key").read_bytes()
    done = home.run("init")
    assert done.returncode == 9
    assert (home.data() / "key").read_bytes() == before


def test_the_same_phrase_makes_the_same_volume_which_is_empty(home: Home, tmp_path: Path) -> None:
    phrase, elsewhere = tmp_path / "phrase", tmp_path / "elsewhere"
    phrase.write_text(" ".join(words_in(home.do("init"))))
    elsewhere.mkdir()
    with home_in(elsewhere) as other:
        said = other.do("init", "--phrase-file", str(phrase))
        assert words_in(said) == []
        assert "recovery phrase" not in said
        assert "does not bring files back" in said.replace("\n", " ")
        assert (other.data() / "key").read_bytes() == (home.data() / "key").read_bytes()


def test_two_volumes_of_one_phrase_on_one_machine_are_refused(home: Home, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text(" ".join(words_in(home.do("init"))))
    done = home.run("init", "--volume", "copy", "--phrase-file", str(phrase))
    assert done.returncode == 9
    assert "the volume default" in done.stderr
    assert not home.data("copy").exists()


def test_the_phrase_comes_with_what_it_does_not_do(home: Home, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    said = home.do("init", "--kit", str(kit))
    for text in (said, kit.read_text()):
        assert "The phrase alone does not bring files back" in text.replace("\n", " ")


def test_a_missing_key_file_is_made_again_from_the_phrase_and_by_nothing_else(
    home: Home, tmp_path: Path
) -> None:
    phrase, other = tmp_path / "phrase", tmp_path / "other"
    other.write_text(" ".join(words_in(home.do("init", "--volume", "other"))))
    phrase.write_text(" ".join(words_in(home.do("init", "--farmer", "farm.example.org:7420"))))
    key, settings = home.data() / "key", home.folder / ".config/storjfs/volumes/default/settings.toml"
    before, kept = key.read_bytes(), settings.read_text() + "# mine\n"
    settings.write_text(kept)
    (home.data() / "farm").mkdir()
    (home.data() / "farm" / "farmer-00").mkdir()
    key.unlink()
    at = tmp_path / "at"
    for words in (("mount", str(at)), ("init",), ("status",), ("fsck",), ("flush",), ("scrub",), ("gc",)):
        done = home.run(*words)
        assert done.returncode == 12, (words, done.stderr)
        assert "--phrase-file" in done.stderr
    (home.data("other") / "key").unlink()
    assert home.run("init", "--phrase-file", str(other)).returncode == 3
    assert not key.exists()
    assert settings.read_text() == kept
    home.do("init", "--phrase-file", str(phrase))
    assert (key.read_bytes(), settings.read_text()) == (before, kept)


def test_a_volume_whose_data_directory_is_away_is_not_made_anew(home: Home, tmp_path: Path) -> None:
    home.do("init")
    home.data().rename(tmp_path / "unplugged")
    done = home.run("mount", str(tmp_path / "at"))
    assert (done.returncode, home.data().exists()) == (12, False)


def test_farmers_may_make_the_ledger_before_the_volume_is_made(home: Home) -> None:
    """As the page on farmers of one's own choice has it."""
    home.data().mkdir(parents=True, mode=0o700)
    Ledger(home.data() / "ledger.db")
    assert home.run("status").returncode == 8
    home.do("init", "--farmer", "127.0.0.1:7420")
    assert (home.data() / "key").exists()


def test_a_wrong_word_is_named_by_its_place_only(home: Home, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("abandon " * 23 + "notaword")
    done = home.run("init", "--phrase-file", str(phrase))
    assert done.returncode != 0
    assert "word 24" in done.stderr
    assert "abandon" not in done.stderr
    assert not (home.data() / "key").exists()


def test_a_recovery_kit_is_written_privately_and_never_over_a_file(home: Home, tmp_path: Path) -> None:
    kit = tmp_path / "kit.txt"
    words = words_in(home.do("init", "--kit", str(kit)))
    assert stat.S_IMODE(kit.stat().st_mode) == 0o600
    assert all(word in kit.read_text() for word in words)
    assert home.run("init", "--volume", "other", "--kit", str(kit)).returncode == 9
    assert not home.data("other").exists()


def test_a_passphrase_can_be_changed_and_forgotten(home: Home, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("one\n")
    new.write_text("two\n")
    words = words_in(home.do("init", "--passphrase-file", str(old)))
    change = ("passphrase", "change", "--new-passphrase-file", str(new))
    assert home.run(*change, "--passphrase-file", str(new)).returncode == 3
    assert home.run(*change).returncode == 3
    home.do(*change, STORJFS_PASSPHRASE="one")
    assert home.run("status", "--passphrase-file", str(old)).returncode == 3
    assert home.run("status", "--passphrase-command", f"cat {new}").returncode == 0
    phrase = tmp_path / "phrase"
    phrase.write_text(" ".join(words))
    home.do("passphrase", "change", "--phrase-file", str(phrase), "--no-passphrase")
    assert home.run("status").returncode == 0


def test_contradicting_ways_to_change_a_passphrase_are_refused(home: Home, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("one\n")
    new.write_text("two\n")
    home.do("init", "--passphrase-file", str(old))
    change = ("passphrase", "change", "--passphrase-file", str(old), "--new-passphrase-file", str(new))
    assert home.run(*change, "--no-passphrase").returncode == 2
    assert home.run(*change, "--phrase-file", str(old)).returncode == 2
    home.do("status", "--passphrase-file", str(old))


def test_a_volume_whose_key_file_is_lost_is_listed_and_its_phrase_makes_no_second_one(
    home: Home, tmp_path: Path
) -> None:
    words = " ".join(words_in(home.do("init")))
    (tmp_path / "words").write_text(words)
    (home.data() / "key").unlink()
    (home.data() / "journal" / ("0" * 32)).write_bytes(b"a segment")
    assert "its key file is missing" in home.do("volumes")
    (row,) = json.loads(home.do("volumes", "--json"))
    assert (row["name"], row["state"], row["passphrase"]) == ("default", "key-missing", None)
    settings = home.folder / ".config/storjfs/volumes/default/settings.toml"
    second = ("init", "--volume", "second", "--phrase-file", str(tmp_path / "words"))

    def refused() -> str:
        said = home.run(*second)
        assert said.returncode != 0
        assert "storjfs init --phrase-file" in said.stderr
        assert not home.data("second").exists()
        return said.stderr

    assert "that of the volume default" in refused()
    settings.write_text("nonsense")
    assert "cannot be told" in refused()


def test_volumes_lists_what_is_there(home: Home) -> None:
    assert "no volume" in home.do("volumes")
    home.do("init", "--volume", "photos")
    (row,) = json.loads(home.do("volumes", "--json"))
    assert (row["name"], row["mountpoint"], row["passphrase"]) == ("photos", None, False)


def test_a_volume_that_was_never_mounted_has_a_status(home: Home) -> None:
    home.do("init")
    report = home.status()
    assert report["schema"] == 1
    assert report["health"] == "healthy"
    assert report["mount"] is None
    assert report["contracts"] == []
    assert "not mounted" in home.do("status")


def test_before_the_first_contract_there_is_no_code(home: Home) -> None:
    home.do("init", "--farmer", "127.0.0.1:9")
    assert home.run("mount", str(home.at)).returncode == 7
    report = home.status()
    assert (report["volume"]["k"], report["volume"]["n"]) == (0, 0)
    assert "no farmers yet" in home.do("status")


def test_what_is_missing_has_its_code(home: Home, tmp_path: Path) -> None:
    assert home.run("status").returncode == 8
    assert home.run("umount", str(tmp_path)).returncode == 8
    assert home.run("flush").returncode == 8
    assert home.run("umount").returncode == 2


def test_a_mount_point_that_cannot_be_used_is_one_line_and_code_4(home: Home, tmp_path: Path) -> None:
    home.do("init")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for place, word in ((tmp_path / "full", "not empty"), (tmp_path / "full" / "file", "not a directory")):
        done = home.run("mount", str(place))
        assert done.returncode == 4
        assert word in done.stderr.splitlines()[0]
        assert len(done.stderr.splitlines()) <= 2


def test_bad_values_are_code_2_or_named(home: Home) -> None:
    home.do("init")
    done = home.run("mount", str(home.at), "-o", "size=3")
    assert done.returncode == 2
    assert "'size=3'" in done.stderr
    assert home.run("mount", str(home.at), "--cache-size", "huge").returncode == 2
    for command in (("mount", str(home.at)), ("init", "--volume", "small", "--no-passphrase")):
        small = home.run(*command, "--cache-size", "15M")
        assert small.returncode == 2
        assert "15 MiB is too small" in small.stderr
        assert "16 MiB" in small.stderr
        for bytes_ in ("0", "1", "20", "100"):
            none = home.run(*command, "--cache-size", bytes_)
            assert (none.returncode, f"{bytes_} B is too small" in none.stderr) == (2, True)
    assert home.run("mount", str(home.at), "--volume", "../other").returncode == 2
    assert home.run("mount", "").returncode == 2
    assert home.run("init", "--volume", "new", "--farmer", "nonsense").returncode == 2
    assert home.run("farm", "--at", str(home.folder / "farm"), "--share", "lots").returncode == 2


def test_a_failure_of_status_is_no_health(home: Home) -> None:
    home.do("init")
    settings = home.folder / ".config/storjfs/volumes/default/settings.toml"
    settings.write_text(settings.read_text() + "nonsense")
    assert home.run("status").returncode == 12
    settings.unlink()
    settings.mkdir()
    done = home.run("status", "--json")
    assert done.returncode == 13
    assert done.stdout == ""
    assert str(settings) in done.stderr


def test_a_passphrase_and_none_is_a_contradiction(home: Home, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("one")
    done = home.run("init", "--no-passphrase", "--passphrase-file", str(tmp_path / "word"))
    assert done.returncode == 2
    assert not home.data().exists()


@pytest.mark.parametrize(
    "words",
    [
        ("mount", "AT", "--passphrase-file", "/no/such/file"),
        ("mount", "AT", "--passphrase-command", "/no/such/program"),
        ("init", "--passphrase-file", "/no/such/file"),
        ("init", "--phrase-file", "/no/such/file"),
    ],
)
def test_a_file_that_is_not_there_is_one_error_and_nothing_is_made(
    home: Home, words: tuple[str, ...]
) -> None:
    before = sorted(home.folder.rglob("*"))
    done = home.run(*(str(home.at) if word == "AT" else word for word in words))
    assert (done.returncode, done.stdout) == (3, "")
    said, what_to_do = done.stderr.splitlines()
    assert "/no/such/" in said
    assert "No such file" in said
    assert "Nothing was made" in what_to_do
    assert sorted(home.folder.rglob("*")) == before


def test_to_begin_anew_without_the_key_file_what_is_named_is_moved_away(home: Home, tmp_path: Path) -> None:
    home.do("init")
    (home.data() / "key").unlink()
    (home.data() / "journal" / ("0" * 32)).write_bytes(b"a segment")
    done = home.run("init")
    assert done.returncode == 12
    named = done.stderr.partition("move away first: ")[2].strip().removesuffix(".").split(" and ")
    for number, folder in enumerate(named):
        Path(folder).rename(tmp_path / f"away{number}")
    home.do("init")


def test_a_kit_that_cannot_be_written_is_said_before_a_volume_is_made(home: Home, tmp_path: Path) -> None:
    done = home.run("init", "--kit", str(tmp_path / "no" / "kit"))
    assert done.returncode == 1
    assert "no such folder" in done.stderr
    assert not home.data().exists()


@pytest.mark.parametrize(
    "words", [("flush",), ("audit", "--now"), ("repair",), ("umount", "--volume", "default")]
)
def test_without_a_mount_it_is_said_what_to_do(home: Home, words: tuple[str, ...]) -> None:
    missing = home.run(*words)
    assert missing.returncode == 8
    assert "there is no volume default" in missing.stderr
    home.do("init")
    done = home.run(*words)
    assert done.returncode == 8
    assert done.stderr.splitlines()[0] == "storjfs: the volume default is not mounted"
    assert "storjfs mount DIR" in done.stderr


def test_a_wrong_phrase_is_code_3(home: Home, tmp_path: Path) -> None:
    phrase, other = tmp_path / "phrase", tmp_path / "other"
    phrase.write_text("abandon " * 24)
    assert home.run("init", "--phrase-file", str(phrase)).returncode == 3
    home.do("init")
    other.write_text(" ".join(words_in(home.do("init", "--volume", "other"))))
    done = home.run("passphrase", "change", "--phrase-file", str(other), "--no-passphrase")
    assert done.returncode == 3
    assert "another volume" in done.stderr


def test_a_phrase_that_goes_to_no_terminal_is_a_warning(home: Home, tmp_path: Path) -> None:
    done = home.run("init")
    assert "the recovery phrase goes to standard output" in done.stderr
    phrase = tmp_path / "phrase"
    phrase.write_text(" ".join(words_in(done.stdout)))
    assert "warning" not in home.run("init", "--volume", "copy", "--phrase-file", str(phrase)).stderr


@pytest.mark.parametrize(
    ("answers", "kit"),
    [(["y", "No", "kit.txt"], Path("kit.txt")), (["n", ""], None), (["Y", "x"], Path("x"))],
)
def test_an_answer_of_yes_or_no_is_no_file_for_the_kit(
    answers: list[str], kit: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click, "prompt", lambda *_, **__: answers.pop(0))
    assert volumes._ask_for_kit() == kit
    assert not answers


def test_a_mount_that_fails_leaves_no_directory_behind(home: Home, tmp_path: Path) -> None:
    home.do("init", "--farmer", "127.0.0.1:9")
    for words in (("-o", "size=3"), (), ("--foreground",)):
        assert home.run("mount", str(tmp_path / "new" / "place"), *words).returncode in (2, 7)
        assert not (tmp_path / "new").exists()


def test_a_mount_never_hides_the_volume_itself(home: Home) -> None:
    home.do("init")
    for place in (home.data(), home.folder, home.data() / "journal"):
        done = home.run("mount", str(place), "--nonempty")
        assert done.returncode == 4
        assert "keeps its own files" in done.stderr
