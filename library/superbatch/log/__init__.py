"""BatchLog: follow a job's batches exactly and in order, resume at any one, report progress, push checkpoints."""

from superbatch.log.batch import LogBatch
from superbatch.log.batch_log import BatchLog
from superbatch.log.checkpoints import PushedCheckpoint, place_checkpoint
from superbatch.log.cursor import LogState

__all__ = ["BatchLog", "LogBatch", "LogState", "PushedCheckpoint", "place_checkpoint"]
