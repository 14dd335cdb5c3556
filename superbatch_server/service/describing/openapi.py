"""The API's description as docs/openapi.json keeps it; `make docs` writes it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from superbatch_server.service.app import create_app
from superbatch_server.service.catalog.engine import create_engine
from superbatch_server.service.settings import Settings
from superbatch_server.storage.store import open_store


def openapi_text() -> str:
    """Return the OpenAPI document, the same for every deployment."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        engine = create_engine(f"sqlite:///{folder}/catalog.sqlite")
        app = create_app(engine=engine, settings=settings, store=open_store(f"{folder}/store"), token="unused")
        engine.dispose()
        return json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n"


def main(path: Path) -> None:
    """Write the document."""
    path.write_text(openapi_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
