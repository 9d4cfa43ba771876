"""The task type, run for real; no server and no Redis."""

import pytest

from taskman import TaskmanError
from taskman.testing import run_task_type
from taskman_hello import Hello


def test_it_greets_everybody_as_often_as_asked() -> None:
    outcome = run_task_type(Hello(), {"who": "Ada", "guests": ["Grace"], "times": 2, "pause": 0})
    assert outcome.state == "succeeded"
    assert outcome.result == {"greeted": ["Ada", "Grace"], "times": 2}
    assert outcome.log == "Hello, Ada and Grace!\nHello, Ada and Grace!\n"
    assert [(one.done, one.total) for one in outcome.progress] == [(1, 2), (2, 2)]


def test_it_speaks_other_languages() -> None:
    outcome = run_task_type(Hello(), {"language": "fr", "times": 1, "pause": 0})
    assert outcome.lines[0].text == "Bonjour, world!"


@pytest.mark.parametrize("params", [{"times": 0}, {"language": "xx"}, {"whom": "Ada"}])
def test_it_refuses_what_makes_no_sense(params: dict[str, object]) -> None:
    with pytest.raises(TaskmanError):
        run_task_type(Hello(), params)


def test_it_runs_a_command_in_a_directory_of_its_own() -> None:
    outcome = run_task_type(Hello(), {"times": 1, "pause": 0, "command": ["sh", "-c", "ls; echo done >&2"]})
    assert [(line.text, line.stream) for line in outcome.lines[1:]] == [("done", "err")]


def test_a_command_that_fails_fails_the_run() -> None:
    outcome = run_task_type(Hello(), {"times": 1, "pause": 0, "command": ["false"]})
    assert (outcome.state, outcome.reason, outcome.error) == ("failed", "exit", "false ended with 1")


def test_a_cancelled_run_keeps_what_it_has_done() -> None:
    params = {"times": 1000, "pause": 60}
    outcome = run_task_type(Hello(), params, cancel_when=lambda so_far: len(so_far.progress) == 1)
    assert (outcome.state, outcome.result) == ("cancelled", {"greeted": ["world"], "times": 1})


def test_it_ends_in_time() -> None:
    outcome = run_task_type(Hello(), {"pause": 60}, timeout=0.2)
    assert (outcome.state, outcome.reason) == ("failed", "timeout")
