"""What a job asks of a cluster, against what the cluster has and can grow to: impossible jobs are refused, in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ray_s2v.cluster.supply import NodeType, Resources, Supply
from ray_s2v.config.job import Encoder, Job
from ray_s2v.schema import ConfigError

TYPE = "accelerator_type:"  # before the name of each kind of GPU among a node's resources
NEARLY = 1e-6  # what sums of fractions may be off by
VIDEOS = "maker of videos"


class Asked(NamedTuple):
    """Equal things that a job runs, each on one node, and what each of them reserves there."""

    name: str  # of one
    setting: str  # that says how many there are
    prefix: str  # of the settings `cpus` and `gpus`
    number: int
    cpus: float
    gpus: float = 0
    kind: str | None = None

    @property
    def kind_setting(self) -> str:
        return f"{self.setting.rpartition('.')[0]}.accelerator_type"

    def called(self) -> str:
        return f"{self.number} {self.name}{'s want' if self.number > 1 else ' wants'}"

    def wants(self, with_cpus: bool = True) -> str:
        """What each reserves: '2 CPUs and one L40S each'."""
        gpus = f"{'one' if self.gpus == 1 else f'{self.gpus:g} of one'} {self.kind or 'GPU'}" if self.gpus else ""
        cpus = counted(self.cpus, "CPU") if (with_cpus and self.cpus) or not gpus else ""
        beside = f" beside one {self.kind}" if self.kind and not self.gpus else ""
        return " and ".join(part for part in (cpus, gpus) if part) + beside + (" each" if self.number > 1 else "")


def for_training(job: Job, with_encoders: bool) -> list[Asked]:
    """The least of the workers, one row being fetched, the least of each encoder's actors if they run beside, and the videos' process."""
    training = job.training
    reserved = (training.worker_cpus, training.worker_gpus, training.accelerator_type)
    workers = Asked("worker", "training.workers", "training.worker_", training.workers.min, *reserved)
    encoders = [_for_encoder(job, kind) for kind in ("video", "speech", "text") if with_encoders]
    return [workers, for_decoding(job), *encoders, *for_validation(job)]


def for_validation(job: Job) -> list[Asked]:
    """The process that makes videos beside the workers, where there is one."""
    settings = job.validation
    if not settings or settings.place == "workers":
        return []
    setting = "validation.gpus" if settings.gpus else "validation.cpus"
    return [Asked(VIDEOS, setting, "validation.", 1, settings.cpus, settings.gpus, settings.accelerator_type)]


def with_place_of_videos(job: Job, with_encoders: bool, there: Supply) -> Job:
    """The job with the place where its videos are made, where it leaves that open: beside the workers if the cluster has room there."""
    if not job.validation or job.validation.place != "auto":
        return job
    place = "workers" if _wrong(for_training(job, with_encoders), there) else "beside"
    return job.model_copy(update={"validation": job.validation.model_copy(update={"place": place})})


def for_encoding(job: Job, kind: str) -> list[Asked]:
    """What filling the store with one kind of features needs."""
    return [_for_encoder(job, kind), for_decoding(job)]


def for_decoding(job: Job) -> Asked:
    return Asked("decoder", "data.decode_cpus", "data.decode_", 1, job.data.decode_cpus)


def _for_encoder(job: Job, kind: str) -> Asked:
    name = {"video": "vae"}.get(kind, kind)
    encoder: Encoder = {"vae": job.encoders.vae, "speech": job.encoders.speech, "text": job.encoders.text}[name]
    reserved = (encoder.cpus, encoder.gpus, encoder.accelerator_type)
    return Asked(f"{name} encoder", f"encoders.{name}.actors", f"encoders.{name}.", encoder.actors.min, *reserved)


def holds(resources: Resources, one: Asked) -> int:
    """How many of these an empty node has room for, if it has nothing else; a fraction of a GPU lies on one GPU."""
    if one.kind and TYPE + one.kind not in resources:
        return 0
    rooms = [one.number]
    if one.cpus:
        rooms.append(math.floor(resources.get("CPU", 0) / one.cpus + NEARLY))
    if one.gpus:
        rooms.append(math.floor(resources.get("GPU", 0) + NEARLY) * math.floor(1 / one.gpus))
    return min(rooms)


def check(asked: Sequence[Asked], there: Supply) -> None:
    """Raises ConfigError, in words, where the cluster can never give all that is asked. What passes may still have to wait for nodes."""
    if wrong := _wrong(asked, there):
        raise ConfigError("\n".join([*wrong, *_without_videos(asked, there), "The cluster:", *described(there)]))


def _wrong(asked: Sequence[Asked], there: Supply) -> list[str]:
    return [short for one in asked for short in _short(one, there)] or list(_too_little(asked, there))


def _without_videos(asked: Sequence[Asked], there: Supply) -> Iterator[str]:
    """What to do where all else has room."""
    rest = [one for one in asked if one.name != VIDEOS]
    if len(rest) < len(asked) and not _wrong(rest, there):
        yield "All else has room: give validation.place=workers, or validation.gpus=0"


def _short(one: Asked, there: Supply) -> Iterator[str]:
    """What is wrong where not even these alone have room."""
    rooms = there.most(lambda node: holds(node, one))
    if rooms >= one.number:
        return
    if one.kind and not there.most(lambda node: TYPE + str(one.kind) in node):
        none = f"none and can get none: no node type's resources name {TYPE}{one.kind}" if there.growth.types else "none"
        yield f"{one.kind_setting} is {one.kind}, of which the cluster has {none}"
        return
    of_cpus = there.most(lambda node: holds(node, one._replace(cpus=0))) >= one.number
    settings = [one.setting]
    if one.kind or one.gpus:
        settings.append(one.kind_setting if one.kind else f"{one.prefix}gpus")
    if of_cpus:
        settings.append(f"{one.prefix}cpus")
    number = f"{rooms:g}" if one.gpus == 1 and not of_cpus else f"room for {rooms:g}"
    settings = list(dict.fromkeys(settings))
    yield f"{one.called()} {one.wants(of_cpus)} ({', '.join(settings)}); the cluster {_can_give(there)} {number if rooms else 'none'}"


def _too_little(asked: Sequence[Asked], there: Supply) -> Iterator[str]:
    """What is wrong where each alone has room, but not all together: in the whole, else on the nodes with one kind of GPU."""
    for kind in (None, *sorted({one.kind for one in asked if one.kind})):
        here = [one for one in asked if kind in (None, one.kind)]
        short = []
        for name, needed in (("CPU", sum(one.number * one.cpus for one in here)), ("GPU", sum(one.number * one.gpus for one in here))):
            given = there.most(partial(_amount, name, kind))
            if needed > given + NEARLY:
                short.append(
                    f"{counted(needed, name)}{f' on nodes with {kind}' if kind else ''} (the cluster {_can_give(there)} {given:g})"
                )
        if short:
            parts = "; ".join(f"{one.called()} {one.wants()} ({one.setting})" for one in here)
            yield f"the job needs {' and '.join(short)}: {parts}. Lower some of these, or give Ray more"
            return


def _amount(name: str, kind: str | None, node: Resources) -> float:
    return node.get(name, 0) if not kind or TYPE + kind in node else 0


def _can_give(there: Supply) -> str:
    return "can grow to" if there.growth.types else "has"


def described(there: Supply) -> list[str]:
    """A line for each group of equal nodes."""
    types = [kind for kind in there.growth.types if kind.most]
    others = Counter(size(node.resources) for node in there.up if not node.type)
    lines = [f"{counted(number, 'node')} of {of}" for of, number in others.items()] + [described_type(kind, there) for kind in types]
    if sum(kind.most for kind in types) > there.growth.most:
        lines.append(f"of all these types together at most {there.growth.most}")
    return [f"  {line}" for line in lines]


def described_type(kind: NodeType, there: Supply) -> str:
    """How large a type's nodes are, how many are up and how many there may be."""
    return f"{kind.name} nodes of {size(kind.resources)} ({there.number_up(kind)} up, at most {kind.most})"


def size(resources: Resources) -> str:
    """A node's CPUs and GPUs: '8 CPUs, 2 GPUs, L40S'."""
    if not resources:
        return "a size that Ray learns when one is up"
    parts = [counted(resources.get(name, 0), name) for name in ("CPU", "GPU") if resources.get(name) or name == "CPU"]
    return ", ".join([*parts, *sorted(name.removeprefix(TYPE) for name in resources if name.startswith(TYPE))])


def counted(number: float, what: str) -> str:
    """'1 node', '2 nodes'."""
    return f"{number:g} {what}{'' if number == 1 else 's'}"
