"""What an edgehost.toml becomes, and the line each mistake in it gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehost.config import Broker, Config, Http, Log
from edgehost.config_toml import read_config
from edgehost.errors import ConfigError

BROKER = '[brokers.site]\nurl = "mqtt://10.0.0.3"\n'


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Config]:
    def read(text: str) -> Config:
        (tmp_path / "edgehost.toml").write_text(text)
        return read_config(tmp_path / "edgehost.toml")

    return read


def test_an_empty_file_is_a_config(read: Callable[[str], Config], tmp_path: Path) -> None:
    assert read("") == Config(source=tmp_path / "edgehost.toml")


@pytest.mark.parametrize(
    ("said", "profile"),
    [
        ("raspberry-pi-5", "raspberry-pi-5"),
        ("own.toml", "{folder}/own.toml"),
        ("boards/x", "{folder}/boards/x"),
        ("/a/b.toml", "/a/b.toml"),
    ],
)
def test_a_profile_is_a_name_or_a_path(read: Callable[[str], Config], tmp_path: Path, said: str, profile: str) -> None:
    assert read(f'[agent]\nprofile = "{said}"').profile == profile.format(folder=tmp_path)


def test_every_table_becomes_its_struct(read: Callable[[str], Config], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    config = read(
        """
        [agent]
        functions = ["functions/heat", "/opt/cool", "../dry"]
        socket = "run/agent.sock"
        [brokers.site]
        url = "mqtts://broker.example:8884"
        client_id = "press-7"
        version = "3.1.1"
        username = "press"
        password_file = "password"
        ca_file = "./ca.pem"
        keepalive = "1m"
        session_expiry = "2d"
        [http]
        listen = "[::1]:80"
        body_limit = "1MiB"
        [log]
        level = "debug"
        format = "json"
        """
    )
    assert config.functions == (tmp_path / "functions/heat", Path("/opt/cool"), tmp_path.parent / "dry")
    assert config.socket == tmp_path / "run/agent.sock"
    assert config.brokers == {
        "site": Broker(
            url="mqtts://broker.example:8884",
            client_id="press-7",
            version="3.1.1",
            username="press",
            password_file=str(tmp_path / "password"),
            ca_file=str(tmp_path / "ca.pem"),
            keepalive_s=60,
            session_expiry_s=172800,
        )
    }
    assert config.http == Http(listen="[::1]:80", body_limit_bytes=1024 * 1024)
    assert config.log == Log(level="debug", format="json")
    assert config.warnings == ()


def test_paths_count_from_the_file_not_from_here(
    read: Callable[[str], Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "edgehost.toml").write_text('[agent]\nfunctions = ["heat"]')
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = read_config(Path("../edgehost.toml"))
    assert config.functions == (tmp_path / "heat",)
    assert config.source == tmp_path / "edgehost.toml"


@pytest.mark.parametrize("key", ["password_file", "key_file"])
def test_a_secret_everybody_can_read_is_a_warning(read: Callable[[str], Config], tmp_path: Path, key: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    text = BROKER + f'{key} = "secret"\ncert_file = "secret"\n'
    secret.chmod(0o644)
    assert read(text).warnings == (
        f"{tmp_path}/edgehost.toml [brokers.site].{key}: {secret} can be read by every user of this machine; chmod 600 {secret}",
    )
    secret.chmod(0o640)
    assert read(text).warnings == ()


URL = "use mqtt://host[:1883] or mqtts://host[:8883]"
LISTEN = 'use HOST:PORT, as in "127.0.0.1:8080", "0.0.0.0:80" or "[::1]:8080"'
MISTAKES = [
    ("agnet = 3", " agnet: no such key; did you mean agent?"),
    ("[mqtt]", " mqtt: no such key; use agent, brokers, disk, gpio, http, journal, log, secrets or serial"),
    ("agent = 3", " agent: 3 is not allowed; use a table [agent]"),
    ("brokers = 3", " brokers: 3 is not allowed; use a table [brokers.NAME]"),
    ("[agent]\nfunction = []", " [agent].function: no such key; did you mean functions?"),
    ('[agent]\nfunctions = "heat"', ' [agent].functions: "heat" is not allowed; use a list of text'),
    ('[agent]\nfunctions = ["a", 3]', ' [agent].functions[1]: 3 is not allowed; use text, in quotes: "3"'),
    ('[agent]\nfunctions = [""]', ' [agent].functions[0]: "" is not allowed; use a path'),
    ('[agent]\nfunctions = ["a", "./b/../a"]', ' [agent].functions[1]: "./b/../a" is given twice; keep one'),
    (
        f'[agent]\nsocket = "/{"s" * 120}"',
        f" [agent].socket: /{'s' * 120} is longer than the 107 bytes a Unix socket may have; use a shorter path",
    ),
    ('[brokers]\nsite = "mqtt://x"', ' [brokers].site: "mqtt://x" is not allowed; use a table'),
    ('[brokers."a b"]', ' [brokers."a b"]: cannot be a name; use up to 63 letters, digits, -, _ and ., no sign first or last'),
    ("[brokers.site]", " [brokers.site].url: missing; write text"),
    ('[brokers.site]\nurl = "broker"', f' [brokers.site].url: "broker" is not allowed; {URL}'),
    ('[brokers.site]\nurl = "http://broker"', f' [brokers.site].url: "http://broker" is not allowed; {URL}'),
    ('[brokers.site]\nurl = "mqtt://b:x"', f' [brokers.site].url: "mqtt://b:x" is not allowed; {URL}'),
    ('[brokers.site]\nurl = "mqtt://b:99999"', f' [brokers.site].url: "mqtt://b:99999" is not allowed; {URL}'),
    ('[brokers.site]\nurl = "mqtt://b/path"', f' [brokers.site].url: "mqtt://b/path" is not allowed; {URL}'),
    ('[brokers.site]\nurl = "mqtt://[b"', f' [brokers.site].url: "mqtt://[b" is not allowed; {URL}'),
    (
        '[brokers.site]\nurl = "mqtt://me:secret@b"',
        " [brokers.site].url: holds a user name; write username and password_file instead, so that no log shows the password",
    ),
    (BROKER + "version = 5", ' [brokers.site].version: 5 is not allowed; use "3.1.1" or "5"'),
    (BROKER + "keepalive_s = 0", " [brokers.site].keepalive_s: 0 is not allowed; use an integer from 1 up"),
    (BROKER + 'password = "x"', " [brokers.site].password: no such key; did you mean password_env?"),
    (
        BROKER + 'password_file = "a"\npassword_env = "A"',
        " [brokers.site].password_env: password_file is given too; keep one of the two",
    ),
    (BROKER + 'key_file = "a"', " [brokers.site].cert_file: missing; key_file is the key of a certificate"),
    (
        BROKER + 'password_file = "nowhere"',
        ' [brokers.site].password_file: "nowhere" cannot be read: No such file or directory: {folder}/nowhere',
    ),
    ('[http]\nlisten = "8080"', f' [http].listen: "8080" is not allowed; {LISTEN}'),
    ('[http]\nlisten = ":8080"', f' [http].listen: ":8080" is not allowed; {LISTEN}'),
    ('[http]\nlisten = "::1:80"', f' [http].listen: "::1:80" is not allowed; {LISTEN}'),
    ('[http]\nlisten = "a:70000"', f' [http].listen: "a:70000" is not allowed; {LISTEN}'),
    ('[http]\nlisten = "http://a:80"', f' [http].listen: "http://a:80" is not allowed; {LISTEN}'),
    ("[http]\nlisten = 8080", ' [http].listen: 8080 is not allowed; use text, in quotes: "8080"'),
    (
        '[http]\nbody_limit = "big"',
        ' [http].body_limit: "big" is not allowed; use a number of bytes, or text such as "128MiB" or "4 MB"',
    ),
    ('[log]\nlevel = "loud"', ' [log].level: "loud" is not allowed; use "debug", "error", "info" or "warning"'),
    ('[log]\nfromat = "json"', " [log].fromat: no such key; did you mean format?"),
    ("[log\n", " line 1, column 5: not TOML: expected ']' at the end of a table declaration"),
    ("[log]\n[log]", " line 2, column 5: [log] is written twice; keep one"),
]


@pytest.mark.parametrize(("text", "line"), MISTAKES)
def test_a_mistake_is_one_line(read: Callable[[str], Config], tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value) == f"{tmp_path}/edgehost.toml{line.replace('{folder}', str(tmp_path))}"


def test_a_file_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"edgehost.toml: cannot be read: No such file or directory$"):
        read_config(tmp_path / "edgehost.toml")


WORDS = ["mqtt://b", "mqtts://b:1", "x", "", "[::1]:1", "~nobody_at_all/x", "\\u0000", "1s", "/"]
KEYS = ["agent", "brokers", "site", "http", "log", "url", "functions", "socket", "listen", "password_file", "level", "x"]
keys = st.sampled_from(KEYS)
plain = st.one_of(st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=5))


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {as_toml(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        keys,
        st.recursive(plain, lambda part: st.lists(part, max_size=3) | st.dictionaries(keys, part, max_size=4), max_leaves=8),
        max_size=4,
    )
)
def test_any_table_is_a_config_or_one_line(tmp_path: Path, table: dict[str, object]) -> None:
    text = "\n".join(f"{key} = {as_toml(value)}" for key, value in table.items())
    (tmp_path / "edgehost.toml").write_bytes(text.encode("utf-8", "replace"))
    try:
        assert isinstance(read_config(tmp_path / "edgehost.toml"), Config)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
