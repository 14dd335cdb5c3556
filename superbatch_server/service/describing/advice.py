"""What to do about an error, and when to change a setting: the columns of docs/errors.md and docs/settings.md.

Apart from the errors and settings themselves, because these sentences are for the person who runs the service; a test
compares both tables with the program's lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "behind_retention": "Start the trainer from a newer checkpoint; `oldest_seq` is the oldest batch that is kept.",
        "body_too_large": "Send less at once: data sets 64 MiB, everything else 8 MiB. Name shards by brace patterns.",
        "checkpoint_every_missing": "Register the trainer with `checkpoint_every`, the batches between two pushes.",
        "conflict": "Look at the object again and decide anew; `detail` says what stands in the way.",
        "dataset_not_ready": "Wait until it is READY. If it is INVALID, read its `error` and register a correct one.",
        "digest_mismatch": "The file changed after it was hashed, or broke on the way: hash it or send it again.",
        "duplicate_shard": "Name every shard once; brace patterns must not overlap.",
        "forbidden": "Use a token of the scope that `detail` names: `superbatch tokens create --scope ...`.",
        "gone": "It was removed and does not come back; make it anew.",
        "host_refused": "Use the address in digits or localhost, or add the name to `SUPERBATCH_ALLOWED_HOSTS`.",
        "idempotency_mismatch": "Use a new Idempotency-Key for a new request.",
        "in_use": "Delete what refers to it first, or let the write end that is under way; `detail` says which.",
        "insufficient_storage": "Make room on the disk (operating.md), then repeat the request.",
        "internal": "Find the request in the API's log by its X-Request-Id, and report it with these lines.",
        "invalid_request": "Correct what `detail` names.",
        "lease_lost": "Only drivers see it: another attempt holds the job, and this one ends itself.",
        "log_missing": "Read the log on the machine that ran the attempt; the API reads its own data folder only.",
        "method_not_allowed": "Look the path up in reference.md.",
        "model_not_ready": "Wait until it is READY. If it is INVALID, read its `error` and register a correct one.",
        "not_a_tar": "Shards are plain tars: unpack a .tar.gz, and look whether the key names the file that was meant.",
        "not_found": "Look whether the id is of this service, and whether the object was deleted.",
        "not_json": "Register the `config.json` and `tokenizer.json` that the model was saved with.",
        "not_safetensors": "Convert the weights: `superbatch convert FILE OUT`.",
        "numerics_changed": "Run the job where it began (same torch, processor, threads, micro-batch), or submit it "
        "anew. In a cluster all nodes must be alike.",
        "object_missing": "No file has this key in this root: look for a typo, a moved file, a root with another path.",
        "other_history": "The trainer's state belongs to another log. Start it without the state, or on its own job.",
        "page_token_refused": "Begin the list again without page_token; a token is good for one list and filter.",
        "pickle_refused": "Nothing from outside is executed. Convert the file: `superbatch convert FILE OUT`.",
        "range_refused": "Ask for bytes below the length in Content-Range.",
        "repetition_cap_too_low": "Raise `repetition_cap`, lower `num_batches`, or use more data.",
        "replay_mismatch": "Replay with the selection, seed, reference and learner of the job that was recorded.",
        "request_timeout": "Look at the network; bodies may not pause for 30 s. An upload goes on at `received_bytes`.",
        "resources_too_small": "Lower `SUPERBATCH_NUM_WORKERS` or `_THREADS_PER_WORKER`, or use a larger machine.",
        "second_learner": "One learner for each job. After a restart use the same name; another one is let in when "
        "the first has been silent for its ttl.",
        "seq_beyond_log": "Report counts of batches that this job has published; look whether job and state match.",
        "staleness_too_small": "Raise `refresh.max_staleness`, push checkpoints more often, or read less far ahead; "
        "`detail` has the numbers.",
        "super_batch_too_large": "Lower b or f, or use more data: B = b / (1 - f) must fit into the data set.",
        "too_many_excluded": "Register a data set without these rows and submit a new job.",
        "too_many_requests": "Wait Retry-After seconds. If it stays: fewer connections, or raise the setting that "
        "`detail` names.",
        "unauthorized": "Send `Authorization: Bearer TOKEN`. The deployment's own token is in the file `token` of its "
        "data folder; an access token may have expired or been deleted.",
        "unavailable": "Repeat after Retry-After seconds. If it stays, look at catalog and store (operating.md).",
        "unknown_root": "Define the root: `superbatch serve --root NAME=PATH` or `SUPERBATCH_ROOTS`; `GET /v1/roots` "
        "lists them.",
        "unsafe_key": "A key is a relative path without `..`; links may not lead out of the root.",
        "upload_incomplete": "Send the missing parts, from `received_bytes` on.",
        "upload_quota": "Delete uploads that nobody needs, or raise `SUPERBATCH_UPLOAD_QUOTA_BYTES`.",
        "validation": "Correct the fields that `errors` lists; /docs shows every body.",
        "variants_do_not_divide": "Choose shares whose rows are multiples of world_size x accumulation.",
        "weights_missing": "Register the model with weights, or let the trainer push them (`updates: pushed`).",
        "went_back": "Say `rewind: true` when the trainer returns to its last checkpoint (CuratedLoader does).",
        "world_size_does_not_divide": "Choose b as a multiple of world_size x accumulation.",
        "wrong_job": "Give the trainer the state and the files of this job.",
        "wrong_offset": "Go on at `received_bytes` of the upload.",
        "wrong_seq": "Only drivers see it: what they wanted to commit is not the next batch.",
        "wrong_state": "`detail` names the state: cancelled jobs stay so, only FAILED ones can be retried.",
    }
)
"""Code of an answer to what its reader should do."""

JOB_FAILURES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "corrupt_file": ("A stored file is damaged.", "Bring the store back from its backup, then retry."),
        "digest_mismatch": (
            "A file is not the one that was registered or published.",
            "Put the old file back, then retry; or register the new one and submit anew.",
        ),
        "driver_crashed": (
            "Too many crashes in a row without progress.",
            "Read the last attempt's log (`superbatch logs JOB`); mend the cause (memory, disk, network); retry.",
        ),
        "invalid_config": ("The model's config cannot be used.", "Register a correct model and submit anew."),
        "invalid_embeddings": (
            "An embedding is not finite or not of unit length.",
            "Look at the model's weights; register a sound one.",
        ),
        "invalid_input": ("A value is outside its rule.", "Correct what `error` names and submit anew."),
        "invalid_selection": ("The selection's parameters contradict each other.", "Correct them and submit anew."),
        "invalid_tokenizer": ("The tokenizer cannot be used.", "Register a correct model and submit anew."),
        "invalid_weights": (
            "The weights do not fit the model's config.",
            "Register config and weights of the same model; `error` names the tensor.",
        ),
        "learner_not_finite": (
            "Fewer than b candidates have a finite learner embedding, and no other checkpoint was left.",
            "The learner has diverged: go back to a sound checkpoint, then retry.",
        ),
        "not_a_tar": ("A shard is no tar any more.", "Put the registered file back, then retry."),
        "numerics_changed": (
            "The machine or torch is another than at the job's start.",
            "Run it where it began, or submit it anew.",
        ),
        "object_missing": ("A file of the data set, a model or a checkpoint is gone.", "Put it back, then retry."),
        "resources_too_small": (
            "The machine or cluster has too few CPUs or too little memory.",
            "Fewer workers, or more machines; `error` has both numbers. Then retry.",
        ),
        "rows_mismatch": (
            "A shard has another number of rows than the manifest said.",
            "Correct `rows` of the manifest, or leave it out, and register the data set anew.",
        ),
        "scoring_failed": ("Candidates could not be embedded.", "Read the log of the attempt; retry."),
        "shard_changed": (
            "A shard was replaced after it was registered.",
            "Put the old file back, then retry; or register the data set anew.",
        ),
        "shard_failed": ("A shard could not be indexed or embedded.", "Read the log of the attempt; retry."),
        "super_batch_exceeds_pool": (
            "A super-batch needs more distinct contents than the data set has.",
            "Lower b or f, or use more data, and submit anew.",
        ),
        "too_few_candidates": (
            "Rules (repetition cap, near-copies, exclusions) leave fewer than b candidates.",
            "`error` counts what each rule took: raise the cap or `max_cosine`, or lower b; submit anew.",
        ),
        "unreadable_example": ("Stored bytes could not be read after all tries.", "Look at the root, then retry."),
        "unsupported_version": ("A file was written by a newer version.", "Upgrade the service, then retry."),
        "worker_died": (
            "A worker died three times over one shard.",
            "Give the workers more memory (fewer of them, smaller `SUPERBATCH_MICRO_BATCH`), or take the shard out.",
        ),
    }
)
"""`error_code` of a FAILED job to its meaning and what to do."""

SETTING_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "data_dir": "To a disk with room. On network storage use Postgres: SQLite needs a local disk.",
        "token_file": "Where the token is a mounted secret; the file must then exist.",
        "database_password_file": "With Postgres, to keep the password out of the environment that you write.",
        "database_url": "For Postgres: `postgresql+psycopg://user@host/name`. Needed for several API processes.",
        "store_url": "To keep lists and cache on a larger disk or in a bucket; needed when drivers run elsewhere.",
        "roots": "To name data. A root that is taken away makes its data sets unreadable.",
        "host": "`0.0.0.0` in a container, behind a proxy; never open to a network without TLS before it.",
        "port": "If the port is taken.",
        "allowed_hosts": "For every name under which clients reach the service.",
        "api_url": "When drivers run on other machines or in other containers.",
        "cors_origins": "For a web application of your own; list exact origins.",
        "uploads_dir": "To a folder that drivers see, too.",
        "upload_quota_bytes": "At `upload_quota` errors; below the free space of its disk.",
        "upload_expiry_s": "Longer for slow lines; shorter to get room back sooner.",
        "uploads_kept": "Higher where trainers go back far; each costs the size of a checkpoint.",
        "gc_min_age_s": "Lower only to win room at once.",
        "requests_per_s": "When honest clients get `too_many_requests`.",
        "max_requests": "When more trainers than this poll with one token.",
        "max_waiting": "At least the number of trainers and ranks that poll.",
        "max_streams": "At least the number of clients that follow events.",
        "max_connections": "Above all pollers, viewers and drivers together.",
        "open_metrics": "When the scraper cannot send a token and the network is trusted.",
        "log_format": "`json` for a log collector.",
        "log_level": "`debug` shows the polls, too.",
        "lease_s": "Longer where the network or database stalls; a dead host is noticed this late.",
        "heartbeat_s": "At most half of the lease.",
        "first_heartbeat_s": "Longer where imports take longer, as from network storage.",
        "poll_s": "Longer to spare the database; jobs start this late.",
        "max_running": "To run more jobs at once; each takes its workers' CPUs and memory.",
        "max_crashes": "0 while you look for a fault.",
        "stop_grace_s": "Longer than it takes to write a shard.",
        "idle_release_s": "Shorter to free the machine sooner; starting again costs about 10 s.",
        "num_workers": "To the number of cores. Changes no list.",
        "shards_per_task": "Higher for many small shards. Changes no list.",
        "threads_per_worker": "Running jobs fail with `numerics_changed`: change it between jobs.",
        "composer_threads": "As above; higher for large b.",
        "micro_batch": "As above; lower where memory is short.",
        "driver_command": "In tests.",
        "runner": "`ray_jobs` to run on a cluster (deploying.md).",
        "ray_address": "With `ray_jobs`, always.",
        "ray_token": "Prefer the file.",
        "ray_token_file": "With `ray_jobs`, always: an open Ray runs anybody's code.",
        "ray_entrypoint": "If the cluster's image has another interpreter.",
        "ray_entrypoint_num_cpus": "Above 0 to keep drivers off the head.",
        "ray_entrypoint_num_gpus": "For drivers that compose on a GPU.",
        "ray_scratch_dir": "To a fast local disk of the nodes.",
        "ray_patience_s": "Longer where the head restarts slowly.",
    }
)
"""Field of the settings to when one would change it."""
