"""`python -m ray_s2v.encode JOB.yaml [section.key=value ...]` fills the feature store with what the job will want, and nothing else."""

from __future__ import annotations

import sys

from ray_s2v.command import command, say
from ray_s2v.config.job import Job
from ray_s2v.schema import RunStopped


def encode(job: Job) -> None:
    """Fills the store; returns when nothing is missing."""
    # Imported when the job has been read: torch and Ray take seconds, a typing mistake should not.
    from ray_s2v.data.encode import wanted_features
    from ray_s2v.reporting.store import size, store_table
    from ray_s2v.reporting.summary import clips_summary
    from ray_s2v.reporting.terminal import Count
    from ray_s2v.training.encoding import run_encoding
    from ray_s2v.training.prepare import prepare_data

    prepared = prepare_data(job, say)
    speech, text = prepared.job.encoders.speech.path, prepared.job.encoders.text.path
    say(clips_summary(prepared.job, prepared.plan, prepared.discovery))
    wanted = wanted_features(prepared.rows(), prepared.features)
    say(store_table(wanted, prepared.features, speech, text))
    outcome = run_encoding(prepared, wanted, Count().show, say)
    for clip, reason in sorted(outcome.unusable.items()):
        say(f"{clip} cannot be decoded, and will add nothing to training: {reason}")
    filled = wanted_features(prepared.rows(), prepared.features)
    encoded = ", ".join(f"{number} {kind}" for kind, number in outcome.encoded.items())
    say(f"done: {encoded} encoded; the job's features take {size(sum(sum(there.values()) for there in filled.there.values()))}")
    if outcome.lost:
        listed = "\n".join(f"  {clip}: {reason}" for clip, reason in sorted(outcome.lost.items()))
        raise RunStopped(f"{len(outcome.lost)} clips could not be read this time; the same command tries them again:\n{listed}")


if __name__ == "__main__":
    sys.exit(command("encode", encode, sys.argv[1:], goes_on="encodes what is still missing"))
