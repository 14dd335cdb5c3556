"""`superbatch dashboard` prints an address that lets a browser in, once."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from superbatch_server.service.access.login_codes import redeem_login_code
from superbatch_server.service.dashboard.command import command


def test_the_address_lets_in_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "service.json").write_text(json.dumps({"url": "http://127.0.0.1:8600", "pid": 1}))
    assert command(["--data-dir", str(tmp_path)]) == 0
    address = urlsplit(capsys.readouterr().out.strip())
    assert (address.netloc, address.path) == ("127.0.0.1:8600", "/login")
    code = parse_qs(address.query)["code"][0]
    assert redeem_login_code(tmp_path, code)
    assert not redeem_login_code(tmp_path, code)


def test_without_a_running_service_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--data-dir", str(tmp_path)]) == 4
    assert "superbatch serve" in capsys.readouterr().err
