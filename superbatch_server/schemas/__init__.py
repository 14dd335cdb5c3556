"""What crosses a process boundary: manifests, job specs, API bodies, and the error tree."""
