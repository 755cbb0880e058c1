"""The unit of a farmer: what systemd reads in it, and where it is installed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from storjfs.cli import farm_service
from storjfs.cli.farm import farm
from storjfs.farmer.settings import DiskShare, FarmerSettings
from storjfs.volume.errors import SettingsError

MIB = 1 << 20


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """A farmer's folder whose name is as bad as names may be."""
    folder = tmp_path / 'my "farm" 100% $HOME'
    folder.mkdir()
    FarmerSettings(capacity=MIB, ledger=tmp_path / "books" / "ledger.db").write(folder)
    return folder


def test_all_disks_can_be_written(at: Path, tmp_path: Path) -> None:
    found = FarmerSettings.read(at)
    assert found is not None
    found.changed(disks=(DiskShare(tmp_path / "b", MIB), DiskShare(tmp_path / "c", MIB))).write(at)
    (paths,) = values(farm_service.unit_text(at, system=True), "ReadWritePaths")
    assert paths.split('" "')[1:] == [f"-{tmp_path / 'b'}", f"-{tmp_path / 'c'}", f'-{tmp_path / "books"}"']


def values(text: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


@pytest.mark.parametrize("system", [True, False])
def test_systemd_finds_nothing_wrong_with_it(at: Path, tmp_path: Path, system: bool) -> None:
    text = farm_service.unit_text(at, system=system)
    assert re.findall("@[A-Z]", text) == []
    assert values(text, "Type") == ["notify"]
    assert values(text, "WatchdogSec") == ["180"]
    quoted = str(at).replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    assert values(text, "ExecStart")[0].endswith(f'farm --at "{quoted}"')
    assert values(text, "ExecReload")[0].endswith(f'farm reload --at "{quoted}"')
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here: package systemd")
    unit = tmp_path / "storjfs-farm.service"
    unit.write_text(text)
    words = [
        analyze,
        "verify",
        "--man=no",
        "--recursive-errors=no",
        *([] if system else ["--user"]),
        str(unit),
    ]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "info"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    about = [line for line in done.stderr.splitlines() if unit.name in line]
    assert about == []
    assert done.returncode == 0


def test_systems_unit_runs_as_the_owner_and_writes_only_where_it_must(at: Path, tmp_path: Path) -> None:
    text = farm_service.unit_text(at, system=True)
    quoted = str(at).replace('"', '\\"').replace("%", "%%")
    assert values(text, "ReadWritePaths") == [f'"{quoted}" "-{tmp_path / "books"}"']
    assert values(text, "User") == [at.owner()]
    assert values(text, "ProtectSystem") == ["strict"]
    own = farm_service.unit_text(at, system=False)
    assert values(own, "User") == values(own, "ProtectSystem") == []
    assert values(own, "NoNewPrivileges") == ["yes"]


def test_a_ledger_whose_path_goes_on_in_another_line_is_refused(at: Path) -> None:
    """Whoever owns the folder writes farmer.toml; root may install the unit."""
    ledger = Path('/books"\nExecStartPre=+/bin/touch mine\n#/ledger.db')
    FarmerSettings(capacity=MIB, ledger=ledger).write(at)
    with pytest.raises(SettingsError, match="cannot stand in a systemd unit"):
        farm_service.unit_text(at, system=True)


def test_command_in_the_unit_is_one_that_runs(at: Path) -> None:
    text = farm_service.unit_text(at, system=False)
    command = values(text, "ExecStart")[0].partition(" farm --at")[0].replace('"', "")
    environment = dict(one.strip('"').split("=", 1) for one in values(text, "Environment"))
    done = subprocess.run(
        [*command.split(), "--version"],
        env={"PATH": "/usr/bin:/bin", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("storjfs"), done.stderr


def test_it_is_installed_where_there_is_a_farmer_and_says_how_to_start_it(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(farm_service, "BOOTED", tmp_path / "no-systemd")
    done = CliRunner().invoke(farm, ["service", "--install", "--user", "--name", "mine", "--at", str(at)])
    assert done.exit_code == 0, done.output
    unit = tmp_path / "config" / "systemd" / "user" / "mine.service"
    assert unit.read_text() == farm_service.unit_text(at, system=False)
    assert unit.stat().st_mode & 0o777 == 0o644
    assert "systemctl --user enable --now mine.service" in done.output
    assert "loginctl enable-linger" in done.output


def test_systemd_that_runs_is_told(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With stand-ins that write down how they were called: this is about what is run, and in which order."""
    calls = tmp_path / "calls"
    for name in ("systemctl", "loginctl"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> "{calls}"\ntest "$1" != fail\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(farm_service, "BOOTED", tmp_path)
    monkeypatch.setattr(farm_service, "SYSTEM_UNITS", tmp_path / "units")
    farm_service.install_unit(at, "storjfs-farm", system=True)
    assert f"runs as   {at.owner()}" in capsys.readouterr().out
    assert calls.read_text().splitlines() == [
        "systemctl daemon-reload",
        "systemctl enable --now storjfs-farm.service",
    ]
    with pytest.raises(farm_service.NotInstalled, match="fail"):
        farm_service._run(["systemctl", "fail"])


def test_without_a_farmer_nothing_is_installed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no farmer"):
        farm_service.install_unit(tmp_path, "x", system=False)


@pytest.mark.parametrize("name", ["a b", "", "-x", "../farm", "farm@", "a/b", "x" * 250])
def test_a_name_that_no_unit_can_have_is_refused_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    at = tmp_path / "new"
    words = ["--at", str(at), "--share", "1GB", "service", "--install", "--user", f"--name={name}"]
    with pytest.raises(SettingsError, match="cannot be the name of a systemd unit"):
        CliRunner().invoke(farm, words, catch_exceptions=False)
    assert not at.exists()
    assert not (tmp_path / "config").exists()


def test_a_name_may_have_the_ending_of_a_unit() -> None:
    assert farm_service.unit_name("storjfs-farm-disk2.service") == "storjfs-farm-disk2"


def test_settings_before_the_word_make_the_farmer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(farm_service, "BOOTED", tmp_path / "no-systemd")
    at = tmp_path / "new"
    words = ["--at", str(at), "--share", "1GB", "--limit", "20Mbit", "--schedule", "08:00-23:00"]
    done = CliRunner().invoke(farm, [*words, "--prices", "spare", "service", "--install", "--user"])
    assert done.exit_code == 0, done.output
    found = FarmerSettings.read(at)
    assert found is not None
    assert (found.capacity, found.shown("limit"), found.shown("schedule")) == (10**9, "20Mbit", "08:00-23:00")
    assert found.price == 2_500_000
    done = CliRunner().invoke(farm, ["--at", str(at), "--limit", "none", "service", "--install", "--user"])
    assert done.exit_code == 0, done.output
    again = FarmerSettings.read(at)
    assert again is not None
    assert (again.shown("limit"), again.shown("schedule")) == ("", "08:00-23:00")
    done = CliRunner().invoke(farm, ["--share", "2GB", "--at", str(at), "status"])
    assert done.exit_code == 2
    assert "changes no settings" in done.output


def test_template_is_in_the_package(tmp_path: Path) -> None:
    """As somebody has it who did not get it from a checkout."""
    root = Path(farm_service.__file__).parents[2]
    words = ["build_py", "--build-lib", str(tmp_path)]
    script = "from setuptools import setup; setup()"
    subprocess.run([sys.executable, "-c", script, *words], cwd=root, check=True, capture_output=True)
    assert (tmp_path / "storjfs" / "cli" / farm_service.TEMPLATE).is_file()


def test_printing_changes_nothing(at: Path) -> None:
    before = (at / "farmer.toml").read_bytes()
    done = CliRunner().invoke(farm, ["--at", str(at), "--share", "2GB", "service", "--user"])
    assert done.exit_code == 0
    assert "ExecStart=" in done.output
    assert (at / "farmer.toml").read_bytes() == before
