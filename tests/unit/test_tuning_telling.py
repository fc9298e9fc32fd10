"""What Ray Tune is told of a run, and when."""

from typing import Any

from ray_s2v.tuning.telling import Telling

Told = list[tuple[int, float, int | None, bool]]


def messages(*steps: int, checkpoints: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """A run's: a step's record, then its held-out loss, then its checkpoint."""
    found: list[dict[str, Any]] = []
    for step in steps:
        found += [{"step": step - 1}] if step else []
        found += [{"held_out": {"step": step, "loss": 10.0 - step}}]
        found += [{"checkpoint": step}] if step in checkpoints else []
    return found


def heard(telling_of: dict[str, Any], run: list[dict[str, Any]]) -> list[Told]:
    """What had been told after each message, and after the end."""
    told: Told = []
    telling = Telling(lambda *what: told.append(what), **telling_of)
    after = []
    for message in run:
        telling.take(message)
        after.append(list(told))
    telling.finish()
    return [*after, told]


def test_losses_are_told_at_once_and_the_last_when_all_is_done() -> None:
    run = messages(0, 2, 4, checkpoints=(2, 4))
    after = heard({"told": [], "num_steps": 4}, run)
    first, second = (0, 10.0, None, False), (2, 8.0, None, False)
    assert after[:-1] == [[first], [first], [first, second], *[[first, second]] * 4][: len(run)]
    assert after[-1] == [first, second, (4, 6.0, None, True)]


def test_a_checkpoint_goes_with_the_loss_of_its_step() -> None:
    run = messages(0, 1, 2, 3, 4, 6, checkpoints=(2, 4, 6))
    after = heard({"told": [], "num_steps": 6, "hand_every": 2}, run)
    assert after[-1] == [
        (0, 10.0, None, False),
        (1, 9.0, None, False),
        (2, 8.0, 2, False),
        (3, 7.0, None, False),
        (4, 6.0, 4, False),
        (6, 4.0, None, True),
    ]
    waiting = run.index({"held_out": {"step": 2, "loss": 8.0}})
    assert after[waiting][-1][0] == 1, "it waits for its checkpoint"
    assert after[waiting + 1][-1] == (2, 8.0, 2, False)


def test_a_checkpoint_that_does_not_come_holds_nothing_up() -> None:
    """As where a run begins with a checkpoint and measures before its first step."""
    run = [{"held_out": {"step": 2, "loss": 8.0}}, {"step": 2}]
    assert heard({"told": [], "num_steps": 6, "hand_every": 2}, run)[1] == [(2, 8.0, None, False)]


def test_what_is_known_is_not_told_again() -> None:
    run = messages(2, 4, 6, checkpoints=(6,))
    after = heard({"told": [(0, 10.0), (2, 8.0), (4, 6.0)], "num_steps": 6, "hand_every": 2}, run)
    assert after[-1] == [(6, 4.0, None, True)]


def test_a_run_that_was_over_tells_its_last_loss() -> None:
    assert heard({"told": [(0, 10.0), (6, 4.0)], "num_steps": 6}, [])[-1] == [(6, 4.0, None, True)]
    lines = [{"held_out": {"step": 0, "loss": 10.0}}, {"held_out": {"step": 6, "loss": 4.0}}]  # killed before it told the last
    assert heard({"told": [(0, 10.0)], "num_steps": 6}, lines)[-1] == [(6, 4.0, None, True)]


def test_a_checkpoint_that_is_written_beside_the_next_steps_is_waited_for() -> None:
    run = messages(0, 2)
    run += [{"step": 2}, {"step": 3}, {"checkpoint": 2}, {"step": 4}]
    run += [{"held_out": {"step": 5, "loss": 5.0}}]
    after = heard({"told": [], "num_steps": 6, "hand_every": 1}, run)
    assert after[4][-1][0] == 0
    assert after[5][-1] == (2, 8.0, 2, False)


def test_a_checkpoint_that_could_not_be_written_is_not_waited_for_longer_than_to_the_next_measurement() -> None:
    run = [*messages(0, 2), {"step": 2}, *messages(4, checkpoints=(4,)), {"step": 4}]
    after = heard({"told": [], "num_steps": 6, "hand_every": 2}, run)
    assert after[-1][1:3] == [(2, 8.0, None, False), (4, 6.0, 4, False)]
