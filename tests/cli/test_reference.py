"""The reference names every option of every command, and every setting with its default."""

import dataclasses
import re
from pathlib import Path

import click
import pytest

from storjfs.cli.app import COMMANDS, Commands
from storjfs.farmer.settings import FarmerSettings
from storjfs.volume import Needs, VolumeSettings
from storjfs.volume.dht import DhtNeeds

DOCS = Path(__file__).resolve().parents[2] / "docs"
REFERENCE = DOCS / "reference"


def options_of(command: click.Command) -> set[str]:
    """Long options, those of subcommands included."""
    found = {name for one in command.params for name in one.opts if name.startswith("--")}
    if isinstance(command, click.Group):
        for sub in command.commands.values():
            found |= options_of(sub)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_stands_in_its_section_or_among_the_common_ones(name: str) -> None:
    command = Commands().get_command(click.Context(click.Command("storjfs")), name)
    assert command is not None
    common, *sections = re.split(r"(?m)^## ", (REFERENCE / "commands.md").read_text())
    (text,) = [text for text in sections if re.match(rf".*`storjfs {name}\b", text)]
    for option in options_of(command):
        assert re.search(rf"{option}\b", common + text), option


def settings_rows(heading: str) -> dict[str, str]:
    """The lines of a table by the settings that they name."""
    text = (REFERENCE / "settings.md").read_text().partition(f"## `{heading}`")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return {name: row for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}


def test_every_setting_of_a_volume_is_explained() -> None:
    fields = {field.name for field in dataclasses.fields(VolumeSettings)} - {"farmers", "needs", "dht"}
    fields |= {field.name for table in (Needs, DhtNeeds) for field in dataclasses.fields(table)}
    fields = fields - {"ledger"} | {"address"}
    assert settings_rows("settings.toml").keys() == fields | {"version", "embedded", "addresses"}


def test_every_setting_of_a_farmer_is_explained() -> None:
    fields = {field.name for field in dataclasses.fields(FarmerSettings)}
    assert settings_rows("farmer.toml").keys() == fields | {"version"}


def test_every_page_of_the_reference_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    for page in REFERENCE.glob("*.md"):
        assert f"reference/{page.name}" in index, page.name
