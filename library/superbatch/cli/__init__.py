"""The command `superbatch`: register data and models, submit jobs, watch them. Standard library and httpx."""
