"""Settings files, of a volume and of a farmer alike: TOML with known keys, and a version of its format."""

import difflib
import tomllib
from collections.abc import Collection
from typing import Any

from storjfs.volume.errors import SettingsError


def read_document(text: str, version: int, known: Collection[str], *, name: str) -> dict[str, Any]:
    """The values in `text` by their keys, of which there are no others than `known`; its version is left out.

    A key that is not known is an error, for it is a typing mistake. Raises SettingsError that calls the file
    `name` and says what is wrong.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"{name} is not valid TOML: {error}",
            hint='Mend that line: texts stand in "quotes", lists in [brackets], and each name once.',
        ) from None
    found = document.pop("version", None)
    if found != version:
        raise SettingsError(
            f"{name} has format version {found}; this storjfs knows {version}",
            hint=f"Use the storjfs that wrote it, or restore the line version = {version}.",
        )
    for key in document:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise SettingsError(
                f"there is no setting {key!r} in {name}",
                hint=f"Did you mean {near[0]}?" if near else f"There are {', '.join(sorted(known))}.",
            )
    return document
