"""What an operator looks at: health, metrics, lines of the log, disks, supervisors."""
