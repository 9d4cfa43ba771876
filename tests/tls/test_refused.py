"""A certificate that does not pass is refused before the token is sent, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tls.conftest import Secured
from tls.listening import Listening, redirect
from tls.speakers import CLIENTS, SPEAKERS, Speaker

REFUSED = (8, "ServerUntrusted")
TOKEN = "tm_this-token-is-to-be-heard-by-nobody"
Listen = Callable[..., Listening]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start servers that keep what they hear."""
    made: list[Listening] = []

    def start(*args: object) -> Listening:
        made.append(Listening(*args))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize("speak", SPEAKERS)
def test_an_unknown_authority_is_refused(secured: Secured, tmp_path: Path, speak: Speaker) -> None:
    said = speak(secured.foreign.url, TOKEN, tmp_path, {"TASKMAN_CA_FILE": secured.trust})
    assert said.code in REFUSED
    assert f"no authority in '{secured.trust}' (TASKMAN_CA_FILE) has issued it" in said.text
    assert "Set TASKMAN_CA_FILE to" in said.text
    assert "taskman up" not in said.text


@pytest.mark.parametrize("speak", SPEAKERS)
def test_without_a_word_the_machines_authorities_count(secured: Secured, tmp_path: Path, speak: Speaker) -> None:
    said = speak(secured.good.url, TOKEN, tmp_path, {})
    assert said.code in REFUSED
    assert "no authority in this machine's certificate store has issued it" in said.text


@pytest.mark.parametrize("speak", SPEAKERS)
def test_a_certificate_for_another_name_is_refused(secured: Secured, tmp_path: Path, speak: Speaker) -> None:
    url = secured.good.url.replace("localhost", "127.0.0.1")
    said = speak(url, TOKEN, tmp_path, {"TASKMAN_CA_FILE": secured.trust})
    assert said.code in REFUSED
    assert "it is for another name than '127.0.0.1'. Set TASKMAN_SERVER to a name that it is for" in said.text


@pytest.mark.parametrize("speak", SPEAKERS)
def test_a_certificate_that_has_expired_is_refused(secured: Secured, tmp_path: Path, speak: Speaker) -> None:
    said = speak(secured.expired.url, TOKEN, tmp_path, {"SSL_CERT_FILE": secured.trust})
    assert said.code in REFUSED
    assert "it has expired. Renew it on the server; here it is 2" in said.text


@pytest.mark.parametrize("speak", SPEAKERS)
def test_nothing_is_said_to_a_server_that_is_not_trusted(
    secured: Secured, tmp_path: Path, listen: Listen, speak: Speaker
) -> None:
    stranger = listen(secured.foreign.certificate)
    said = speak(f"https://localhost:{stranger.port}", TOKEN, tmp_path, {"TASKMAN_CA_FILE": secured.trust})
    assert said.code in REFUSED
    assert stranger.connections >= 1
    assert stranger.heard == b""


@pytest.mark.parametrize("speak", SPEAKERS)
def test_a_redirect_to_https_is_not_followed(secured: Secured, tmp_path: Path, listen: Listen, speak: Speaker) -> None:
    elsewhere = listen(secured.good.certificate)
    place = f"https://localhost:{elsewhere.port}/"
    front = listen(None, redirect(place))
    said = speak(f"http://localhost:{front.port}", TOKEN, tmp_path, {"TASKMAN_CA_FILE": secured.trust})
    assert said.code in (1, "RequestRefused")
    assert f"redirects to {place}: set TASKMAN_SERVER to the server's own address" in said.text
    assert elsewhere.connections == 0


@pytest.mark.parametrize("speak", CLIENTS)
def test_a_server_that_speaks_no_tls_is_told_from_a_bad_certificate(
    secured: Secured, tmp_path: Path, speak: Speaker
) -> None:
    said = speak(secured.site.url.replace("http:", "https:"), TOKEN, tmp_path, {"TASKMAN_CA_FILE": secured.trust})
    assert said.code in REFUSED
    assert "does not speak TLS: where that is right, write TASKMAN_SERVER with http://" in said.text


@pytest.mark.parametrize("way", ["TASKMAN_CA_FILE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("speak", SPEAKERS)
def test_a_file_that_cannot_be_read_is_named(secured: Secured, tmp_path: Path, speak: Speaker, way: str) -> None:
    said = speak(secured.good.url, TOKEN, tmp_path, {way: "/nowhere.pem"})
    assert said.code in (1, 8, "ConfigError")
    assert f"'/nowhere.pem' ({way}) cannot be read: No such file" in said.text


def test_a_file_without_a_certificate_is_named(secured: Secured, tmp_path: Path) -> None:
    speak: Speaker = SPEAKERS[0].values[0]  # type: ignore[assignment]
    (tmp_path / "empty.pem").write_text("this is no certificate\n")
    said = speak(secured.good.url, TOKEN, tmp_path, {"TASKMAN_CA_FILE": str(tmp_path / "empty.pem")})
    assert "(TASKMAN_CA_FILE) cannot be read: no certificate in PEM is in it" in said.text
