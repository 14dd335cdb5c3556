"""The deployment's settings: one place, unknown keys refused, secrets hidden, the same in every process."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from superbatch_server.service.settings import Settings, read_settings


def test_defaults_lie_in_the_data_directory(tmp_path: Path) -> None:
    settings = read_settings({}, data_dir=tmp_path)
    assert settings.database_url.get_secret_value() == f"sqlite:///{tmp_path}/catalog.sqlite"
    assert settings.store_url == (tmp_path / "store").as_uri()
    assert (settings.host, settings.service_url) == ("127.0.0.1", "http://127.0.0.1:8600")


def test_an_unknown_variable_is_refused_and_the_clients_are_not() -> None:
    read_settings({"SUPERBATCH_URL": "http://x", "SUPERBATCH_TOKEN": "t", "PATH": "/bin"})
    with pytest.raises(ValueError, match="must be a setting; got SUPERBATCH_LEASE "):
        read_settings({"SUPERBATCH_LEASE": "3"})


def test_another_process_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings(
        {}, data_dir=tmp_path, roots={"pool": "pool", "far": "s3://bucket/x"}, lease_s=2.0, heartbeat_s=0.5, port=1
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert read_settings(settings.environment()) == settings
    assert settings.roots == {"pool": (Path.cwd() / "pool").as_uri(), "far": "s3://bucket/x"}
    assert settings.runtime().roots == settings.roots | {"uploads": (settings.data_dir / "uploads").as_uri()}


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    settings = read_settings({}, data_dir=tmp_path, database_url="postgresql://user:hunter2@host/name")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heartbeat_s", 20.0),
        ("port", 70_000),
        ("num_workers", 0),
        ("database_url", "catalog.sqlite"),
        ("driver_command", ()),
        ("unknown", 1),
    ],
)
def test_a_value_out_of_bounds_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        read_settings({}, **{field: value})


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "http://127.0.0.1:8600"), ("::", "http://[::1]:8600"), ("box", "http://box:8600")]
)
def test_the_address_for_this_machine(host: str, url: str) -> None:
    assert read_settings({}, host=host).service_url == url


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
