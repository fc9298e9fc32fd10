"""Each node that will go is told once, with its workers and the time."""

from datetime import datetime

from ray.train import PreemptionInfo

from ray_s2v.training.preemption import Notices

NOON_MS = int(datetime(2026, 5, 1, 12, 0, 30).timestamp() * 1000)


def test_each_node_is_news_once() -> None:
    heard = iter(
        [
            None,
            PreemptionInfo(NOON_MS, {"a": [2]}),
            PreemptionInfo(NOON_MS, {"a": [2]}),
            PreemptionInfo(None, {"a": [2], "b": [0, 1]}),
            PreemptionInfo(None, {"a": [2], "b": [0, 1]}),
        ]
    )
    notices = Notices(lambda: next(heard))
    assert [notices.news() for _ in range(5)] == [
        "",
        "the node of worker 2 will be taken away at 12:00:30",
        "",
        "the node of workers 0, 1 will be taken away",
        "",
    ]
