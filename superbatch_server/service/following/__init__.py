"""Those who follow a job while it runs: the manifest's pollers, streams of events, readers of logs."""
