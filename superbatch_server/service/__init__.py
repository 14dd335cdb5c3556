"""The service: REST API, catalog, queue and supervisor, dashboard, and the commands that run them."""
