"""The dashboard: pages drawn by the server for a signed-in browser, read-only, kept current by a poll."""

from superbatch_server.service.dashboard.routes import build_router

__all__ = ["build_router"]
