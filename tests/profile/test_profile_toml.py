"""A profile of one's own: what it extends, and how each mistake in it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgehost.errors import ConfigError
from edgehost.profile import Line, Profile, load
from edgehost.profile.board import recognise
from edgehost.profile.draft import draft

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


def test_a_title_is_a_profile(write: Write) -> None:
    assert load(write('title = "Box"\n')) == Profile("mine", "Box")


def test_it_takes_what_it_does_not_say_from_what_it_extends(write: Write) -> None:
    text = """
        extends = "raspberry-pi-4b"
        title = "Box"
        worker_memory = "64MiB"
        [gpio.lines]
        DOOR = 5
        BCM17 = { chip = "expander", offset = 3 }
        [quirks.mini-uart]
        do = "nothing"
    """
    mine, board = load(write(text)), load("raspberry-pi-4b")
    assert (mine.name, mine.title, mine.cores, mine.worker_memory_bytes) == ("mine", "Box", 4, 64 * 2**20)
    assert mine.gpio.find("DOOR") == Line("pinctrl-bcm2711", 5) and mine.gpio.find("J8-11") == Line("expander", 3)
    assert (mine.quirks["mini-uart"].do, mine.quirks["mini-uart"].what) == ("nothing", board.quirks["mini-uart"].what)
    assert mine.match == board.match and mine.watchdog == board.watchdog


def test_a_list_replaces_the_one_under_it(write: Write) -> None:
    assert load(write('extends = "jetson-orin-nano"\nproviders = ["CPUExecutionProvider"]')).providers == (
        "CPUExecutionProvider",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cores = 4", "mine.toml title: missing; write text that is not empty"),
        ('title = "x"\ncors = 4', "mine.toml cors: no such key; did you mean cores?"),
        ('title = "x"\ncores = "4"', 'mine.toml cores: "4" is not allowed; use an integer from 0 up'),
        ('title = "x"\nname = "y"', "mine.toml name: no such key; a profile has the name of its file"),
        (
            'title = "x"\n[gpio.lines]\nA = 1',
            "mine.toml [gpio].chips: missing; A = 1 is an offset on the first of them",
        ),
        (
            'title = "x"\n[gpio.lines]\nA = { chip = "c" }',
            "mine.toml [gpio].lines: A needs either offset = NUMBER or name = TEXT",
        ),
        (
            'title = "x"\n[serial.a]\npath = "ttyS0"',
            'mine.toml [serial.a].path: "ttyS0" is not allowed; use text that matches ^/.+',
        ),
        ('title = "x"\n[quirks.a]\nwhat = "w"', "mine.toml [quirks.a].do: missing"),
        ('title = "x"\n[quirks.a]\nwhat = "w"\ndo = "d"\nsource = "s"\nsign = {}', "mine.toml quirks: a.sign asks nothing"),
        ('title = "x"\n[storage]\nkinds = ["tape"]', 'mine.toml [storage].kinds[0]: "tape" is not allowed; use "disk", "emmc"'),
        ('extends = "raspberry-pi-4"', 'mine.toml extends: "raspberry-pi-4" is no profile; did you mean raspberry-pi-4b?'),
        ("extends = 4", "mine.toml extends: 4 is not allowed; use the name of a profile"),
        ('extends = "raspberry-pi-4b"\n[gpio]\nchips = []', "mine.toml [gpio].chips: missing"),
        ("title = ", "mine.toml line 1"),
        ('extends = "mine"', "mine.toml extends"),
    ],
)
def test_a_mistake_names_file_key_and_what_is_allowed(write: Write, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(write(text))
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_a_mistake_made_in_what_is_extended_names_the_file_that_wrote_it(write: Write, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/shared.toml").write_text('[gpio]\nchips = ["c"]\n[gpio.lines]\nA = -1\n')
    monkeypatch.setattr("edgehost.profile.profile_toml.PARTS", tmp_path / "parts")
    mine = 'extends = "shared"\ntitle = "x"\n'
    with pytest.raises(ConfigError, match=r"^shared\.toml \[gpio\.lines\]\.A: -1 is not allowed"):
        load(write(mine))
    with pytest.raises(ConfigError, match=r"mine\.toml \[gpio\.lines\]\.A: -2 is not allowed"):
        load(write(mine + "[gpio.lines]\nA = -2"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")


def test_a_draft_loads_as_it_is(write: Write, root: Callable[..., Path]) -> None:
    found = recognise(root('Acme "Edge" Box', ("acme,box", "acme,soc")), "aarch64")
    mine = load(write(draft(found)))
    assert (mine.title, mine.match.compatible, mine.generic) == ('Acme "Edge" Box', ("acme,box",), False)
    assert load(write(draft(recognise(root(), "riscv64")))).title
