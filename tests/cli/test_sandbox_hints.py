"""`pairguard sandbox` on the screen: what it says to do next works on the sandbox that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.desk import fits, pairguard


@pytest.mark.parametrize("words", [("status",), ("freeze",), ("heal", "fs1"), ("kill", "fs1a")])
def test_the_next_command_carries_the_folder_that_was_given(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Without --dir it would look at, or make, another sandbox; a name with a blank is quoted."""
    for name, quoted in (("s", "{}"), ("a b", "'{}'")):
        where = tmp_path / name
        done = pairguard("sandbox", *words, "--dir", str(where))
        assert done.exit_code == 85
        fits(done.stderr)
        said = " ".join(done.stderr.split("next:")[1].split())
        assert said == f"run: pairguard sandbox up --dir {quoted.format(where)}"
    told = pairguard("sandbox", *words, "--json", "--dir", str(tmp_path / "s"))
    assert f"pairguard sandbox up --dir {tmp_path / 's'}" in told.stdout


def test_a_folder_with_something_else_in_it_is_refused_with_its_name(tmp_path: Path) -> None:
    """`up` names both ways out."""
    (tmp_path / "thing").write_text("")
    done = pairguard("sandbox", "up", "--bus", "hub", "--pairs", "1", "--dir", str(tmp_path))
    assert done.exit_code == 89
    assert f"pairguard sandbox down --dir {tmp_path}, or give another" in " ".join(done.stderr.split())


def test_without_a_folder_the_hint_names_none(tmp_path: Path) -> None:
    """The default stays the default."""
    done = pairguard("sandbox", "status", env={"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)})
    if done.exit_code == 85:
        assert "--dir" not in done.stderr
