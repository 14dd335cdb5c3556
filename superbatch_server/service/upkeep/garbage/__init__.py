"""Collecting what nothing refers to: files of deleted jobs, lost races and dead writers, cache that no data set needs.

A supervisor does the work, in the background, because it has the store, the uploads and the folders of attempts at
hand; the API only notes that it is wanted. It is safe beside drivers that write and commit at the same time, without
any lock that they would have to know of, because each file is judged by a fact that never becomes untrue again:

- a list or a score shard can be published at or after its job's next_seq only, and no more once the job has ended for
  good. One below next_seq that no segment names, or of a job that is CANCELLED, SUCCEEDED or deleted, never will be.
- an index or embedding can be committed only by the attempt whose name it carries, and only while that attempt holds
  its job. Tokens never come back.
- a cache entry is forgotten in a transaction that locks its row; a driver notes its use under the same lock.

Rows go before files, so a crash in between leaves garbage for the next run, never a row without its file. Names that
the service does not give are never touched. The age guard comes on top of all this, for what we did not think of.
"""
