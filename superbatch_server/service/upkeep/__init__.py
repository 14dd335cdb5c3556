"""Work beside the jobs, done by the supervisor: verification, withdrawal, uploads, garbage, its own heartbeat."""
