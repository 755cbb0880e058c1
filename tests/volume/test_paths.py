from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.volume import RuntimeDirectoryUnsafe, VolumeNameError, VolumePaths, volume_names


def test_paths_follow_the_xdg_variables() -> None:
    paths = VolumePaths(
        "photos",
        {
            "HOME": "/home/ada",
            "XDG_CONFIG_HOME": "/c",
            "XDG_DATA_HOME": "/d",
            "XDG_CACHE_HOME": "/k",
            "XDG_STATE_HOME": "/s",
            "XDG_RUNTIME_DIR": "/r",
        },
    )
    assert paths.settings_file == Path("/c/storjfs/volumes/photos/settings.toml")
    assert paths.key_file == Path("/d/storjfs/volumes/photos/key")
    assert paths.journal_dir == Path("/d/storjfs/volumes/photos/journal")
    assert paths.cache_dir == Path("/k/storjfs/volumes/photos")
    assert paths.local_db == Path("/s/storjfs/volumes/photos/local.db")
    assert paths.control_socket.parent == Path("/r/storjfs")


def test_unset_and_relative_variables_mean_the_usual_places() -> None:
    paths = VolumePaths("default", {"HOME": "/home/ada", "XDG_DATA_HOME": "here", "XDG_CACHE_HOME": ""})
    assert paths.config_dir == Path("/home/ada/.config/storjfs/volumes/default")
    assert paths.data_dir == Path("/home/ada/.local/share/storjfs/volumes/default")
    assert paths.cache_dir == Path("/home/ada/.cache/storjfs/volumes/default")
    assert paths.state_dir == Path("/home/ada/.local/state/storjfs/volumes/default")


def test_deleting_the_cache_directory_touches_nothing_else(home: dict[str, str]) -> None:
    paths = VolumePaths("default", home)
    kept = [paths.key_file, paths.meta_db, paths.pay_db, paths.local_db, paths.journal_dir, paths.farm_dir]
    kept += [paths.settings_file, paths.lock_file, paths.ledger_db, paths.log_file]
    assert not [path for path in kept if path.is_relative_to(paths.cache_dir)]


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\n", "-x", "a" * 65, "naïve", "a b", "a\0"]
)
def test_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(VolumeNameError):
        VolumePaths(name)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), st.integers(0, 200))
def test_the_socket_path_always_fits(name: str, depth: int) -> None:
    paths = VolumePaths(name, {"HOME": "/h", "XDG_RUNTIME_DIR": "/" + "r" * depth})
    assert len(bytes(paths.control_socket)) < 100
    assert paths.control_socket.parent == paths.runtime_dir


@pytest.mark.parametrize("runtime", ["/r", "/" + "r" * 70, "/" + "r" * 150])
def test_volumes_of_one_name_in_two_homes_have_two_sockets(runtime: str) -> None:
    one, other = (
        VolumePaths("default", {"HOME": home, "XDG_RUNTIME_DIR": runtime}).control_socket
        for home in ("/a", "/b")
    )
    assert one != other


def test_directories_are_private(home: dict[str, str]) -> None:
    paths = VolumePaths("default", home)
    paths.make_directories()
    paths.make_directories()
    paths.make_runtime_dir()
    for directory in (paths.config_dir, paths.data_dir, paths.cache_dir, paths.state_dir, paths.runtime_dir):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_a_runtime_directory_open_to_others_is_refused(home: dict[str, str]) -> None:
    paths = VolumePaths("default", home)
    paths.runtime_dir.mkdir(parents=True)
    paths.runtime_dir.chmod(0o755)
    with pytest.raises(RuntimeDirectoryUnsafe):
        paths.make_runtime_dir()


def test_a_link_instead_of_a_runtime_directory_is_refused(home: dict[str, str], tmp_path: Path) -> None:
    paths = VolumePaths("default", home)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    paths.runtime_dir.parent.mkdir(parents=True, exist_ok=True)
    paths.runtime_dir.symlink_to(elsewhere)
    with pytest.raises(RuntimeDirectoryUnsafe):
        paths.make_runtime_dir()


def test_volume_names_lists_what_exists(home: dict[str, str]) -> None:
    assert volume_names(home) == []
    for name in ("work", "default", "empty"):
        VolumePaths(name, home).make_directories()
    for name in ("work", "default"):
        VolumePaths(name, home).key_file.write_bytes(b"")
    assert volume_names(home) == ["default", "work"]
