"""The part of open_clip_train.data that TrainingSet touches, with webdataset's own stages; no torchvision."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import webdataset as wds
from webdataset.filters import _shuffle
from webdataset.tariterators import tarfile_samples


@dataclass
class Arguments:
    """open_clip's arguments for the sample job of 12 rows on two ranks."""

    train_data: str
    batch_size: int = 6
    world_size: int = 2
    rank: int = 0
    accum_freq: int = 1
    workers: int = 1
    epochs: int = 1
    seed: int = 0
    train_num_samples: int | None = 24 * 12
    dataset_resampled: bool = False
    save_frequency: int = 1
    save_most_recent: bool = False


@dataclass
class Epoch:
    """SharedEpoch without shared memory."""

    value: int = 0

    def get_value(self) -> int:
        return self.value


class Loader:
    """The loader without worker processes."""

    def __init__(self, pipeline: wds.DataPipeline, num_batches: int) -> None:
        self.pipeline, self.num_batches, self.num_samples = pipeline, num_batches, 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pipeline)


def fake_data_module() -> ModuleType:
    """Return a module whose training set shuffles, and drops what it cannot read, as open_clip's does."""
    module = ModuleType("open_clip_train.data")
    values: dict[str, object] = {
        "wds": wds,
        "_SHARD_SHUFFLE_SIZE": 2000,
        "_SHARD_SHUFFLE_INITIAL": 500,
        "_SAMPLE_SHUFFLE_SIZE": 5000,
        "_SAMPLE_SHUFFLE_INITIAL": 1000,
        "log_and_continue": lambda error: True,
        "expand_urls": lambda urls: (wds.shardlists.expand_urls(urls), None),
        "get_dataset_size": lambda urls: (None, None),
        "filter_no_caption_or_no_image": lambda sample: "txt" in sample and "png" in sample,
        "tarfile_to_samples_nothrow": lambda tars, handler=lambda error: True: tarfile_samples(tars, handler=handler),
        "detshuffle2": lambda **options: _Shuffle(**options),
    }
    for name, value in values.items():
        setattr(module, name, value)
    module.get_wds_dataset = _Builder(module)  # type: ignore[attr-defined]
    return module


@dataclass
class _Shuffle:
    bufsize: int
    initial: int
    seed: int
    epoch: Epoch

    def __call__(self, tars: Iterator[Any]) -> Iterator[Any]:
        return _shuffle(tars, self.bufsize, self.initial, random.Random(self.seed + self.epoch.get_value()))  # type: ignore[no-any-return]


@dataclass
class _Builder:
    module: ModuleType
    validation: list[str] = field(default_factory=list)

    def __call__(
        self, args: Arguments, preprocess_img: Callable[[Any], Any], is_train: bool, epoch: int = 0, **_: Any
    ) -> Any:
        data: Any = self.module
        shared = Epoch(epoch)
        stages = [wds.SimpleShardList(args.train_data)]
        if is_train:
            stages.append(
                data.detshuffle2(
                    bufsize=data._SHARD_SHUFFLE_SIZE, initial=data._SHARD_SHUFFLE_INITIAL, seed=args.seed, epoch=shared
                )
            )
            stages.append(lambda tars: (tar for index, tar in enumerate(tars) if index % args.world_size == args.rank))
            stages.append(data.tarfile_to_samples_nothrow)
            stages.append(
                data.wds.shuffle(
                    bufsize=data._SAMPLE_SHUFFLE_SIZE, initial=data._SAMPLE_SHUFFLE_INITIAL, rng=random.Random(0)
                )
            )
        else:
            stages.append(data.wds.tarfile_to_samples(handler=data.log_and_continue))
        stages += [
            data.wds.select(data.filter_no_caption_or_no_image),
            data.wds.decode("pil", handler=data.log_and_continue),
            data.wds.rename(image="jpg;png;jpeg;webp", text="txt"),
            data.wds.map_dict(image=preprocess_img, text=str),
            data.wds.to_tuple("image", "text"),
            data.wds.batched(args.batch_size, partial=not is_train),
        ]
        num_batches = math.ceil((args.train_num_samples or 0) / (args.batch_size * args.world_size))
        pipeline = wds.DataPipeline(*stages).with_epoch(num_batches) if is_train else wds.DataPipeline(*stages)
        return SimpleNamespace(dataloader=Loader(pipeline, num_batches), shared_epoch=shared)
