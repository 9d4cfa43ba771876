"""Taking over crontabs, what is said of each line, and writing them again; schedules on the command line."""

import json
import re
import shutil
import subprocess
from zoneinfo import ZoneInfo

import pytest

from taskman.cli.crontab_lines import has_user_column, split_input
from taskman.cli.crontab_tasks import Machine, take_over, task_name
from taskman.cli.crontabs import written
from taskman.model.cron import Cron
from taskman.model.task import TaskDefinition
from taskman.model.validation import validate

BERLIN = Machine("Europe/Berlin", "ann", home_of={"ann": "/home/ann", "root": "/root"}.get)
SYSTEM = Machine("UTC", home_of={"root": "/root"}.get)

USER_CRONTAB = """\
SHELL=/bin/bash
MAILTO=ann@example.com
PROJECT = "my app"

# back up the database
30 2 * * 1-5 /usr/local/bin/backup --full "$PROJECT"
@daily mail ops%Subject: 100\\%%%hello

MAILTO=""
CRON_TZ=America/New_York
RANDOM_DELAY=10
0~30 * * * * ~/bin/poll
"""


def taken(text, machine=BERLIN, system=False):
    report, tasks = take_over(text, system=system, machine=machine)
    for task in tasks:
        validate(TaskDefinition, task)
    return report, tasks


def test_a_users_crontab_becomes_tasks():
    report, (backup, mail, poll) = taken(USER_CRONTAB)
    assert [one.refusal for one in report] == [None] * 3
    assert backup == {
        "name": report[0].name,
        "type": "shell",
        "params": {
            "command": '/usr/local/bin/backup --full "$PROJECT"',
            "shell": "/bin/bash",
            "cwd": "/home/ann",
            "user": "ann",
        },
        "description": "back up the database",
        "env": {
            "PATH": "/usr/bin:/bin",
            "PROJECT": "my app",
            "HOME": "/home/ann",
            "LOGNAME": "ann",
            "USER": "ann",
        },
        "overlap": "allow",
        "schedules": [{"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin", "catchup": "skip"}],
    }
    assert (mail["params"]["command"], mail["params"]["stdin"]) == ("mail ops", "Subject: 100%\n\nhello\n")
    assert poll["schedules"][0]["timezone"] == "America/New_York"
    assert poll["schedules"][0]["jitter"] == 600
    assert re.fullmatch(r"\d+ \* \* \* \*", poll["schedules"][0]["cron"])


def test_what_differs_is_said_of_each_line():
    report, _ = taken(USER_CRONTAB)
    assert report[0].differences == [
        "output is not mailed to ann@example.com: it is in the log of each run",
        "runs as ann: the worker must be allowed to change to that user",
    ]
    minute = report[2].differences[0]
    assert re.fullmatch(r"0~30 is \d+ for good: cron draws another number whenever it starts", minute)
    assert report[2].differences[1].startswith("RANDOM_DELAY=10")
    assert not any("mailed" in text for text in report[2].differences)


def test_the_same_crontab_gives_the_same_tasks_and_other_lines_do_not_change_them():
    _, tasks = taken(USER_CRONTAB)
    assert taken(USER_CRONTAB)[1] == tasks
    assert taken("5 5 * * * first\n" + USER_CRONTAB)[1][0]["name"] not in {task["name"] for task in tasks}
    assert [task["name"] for task in taken(USER_CRONTAB + "5 5 * * * last\n")[1][:3]] == [
        task["name"] for task in tasks
    ]
    later = taken(USER_CRONTAB.replace("30 2", "45 3"))[1][0]
    assert (later["name"], later["schedules"][0]["cron"]) == (tasks[0]["name"], "45 3 * * 1-5")


def test_the_same_command_twice_is_one_task_with_two_schedules():
    report, (task,) = taken("5 5 * * * ls\n6 6 * * * ls\n")
    assert [one.name for one in report] == [task["name"]] * 2
    assert [one["cron"] for one in task["schedules"]] == ["5 5 * * *", "6 6 * * *"]


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("@reboot /usr/bin/thing", "'@reboot' has no equal here"),
        ("61 * * * * ls", "the minute field '61'"),
        ("* * 31 2 * ls", "never fires"),
        ("* * * * *", "has not all of the time and the command"),
        ("what is this", "has not all of"),
        ("30~10 * * * * ls", "30~10 is no range"),
        ("* * * * * %input", "has no command before its first %"),
    ],
)
def test_a_line_without_equal_is_refused_and_the_others_are_not(line, refusal):
    report, tasks = taken(f"{line}\n0 5 * * * ls\n")
    assert refusal in report[0].refusal
    assert (report[1].refusal, len(tasks)) == (None, 1)


@pytest.mark.parametrize(
    ("line", "difference"),
    [
        ("*/20 2 * * * ls", "when the clock is changed: fires once in a repeated hour"),
        ("5 0-23 * * * ls", "when the clock is changed: follows elapsed time"),
        ("0 22-2 * * * ls", "cron itself refuses a range that wraps"),
        ("0 9 * * FRI-SUN ls", "cron itself refuses a range that wraps"),
        ("0 9 L * * ls", "cron itself knows neither L nor #"),
        ("-0 9 * * * ls", "the '-' that keeps it out of the system's log"),
    ],
)
def test_rules_that_are_not_crons_are_said(line, difference):
    assert any(difference in text for text in taken(line)[0][0].differences)


def test_a_clock_that_is_never_changed_makes_no_difference():
    assert not any("clock" in text for text in taken("*/20 2 * * * ls", SYSTEM)[0][0].differences)


def test_drawings_and_entries_that_were_switched_off_are_no_descriptions():
    text = "# .---- minute\n# |\n0 5 * * * a\n# 5 5 * * * old\n0 6 * * * b\n# text\n\n0 7 * * * c\n"
    assert [task["description"] for task in taken(text)[1]] == ["", "", ""]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }", "run-parts-cron.daily"),
        (
            "[ -x /etc/init.d/anacron ] && if [ ! -d /run ]; then /usr/sbin/invoke-rc.d anacron start >/dev/null; fi",
            "invoke-rc.d-anacron-start",
        ),
        ("perl -e 'sleep int(rand(43200))' && certbot -q renew --no-random-sleep-on-renew", "certbot-renew"),
        ("command -v debian-sa1 > /dev/null && debian-sa1 60 2", "debian-sa1-60-2"),
        ("A=1 ./ünï.sh", "n-.sh"),
        ("[ -f x ]", "task"),
    ],
)
def test_names_say_what_runs(command, name):
    assert re.fullmatch(re.escape(name) + r"-[0-9a-f]{6}", task_name(command, "seed"))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("a", ("a", None)),
        ("date +\\%d", ("date +%d", None)),
        ("cat%a", ("cat", "a\n")),
        ("cat%a%b\\%%", ("cat", "a\nb%\n")),
    ],
)
def test_percent_signs_are_read_as_cron_does(command, expected):
    assert split_input(command) == expected


def test_the_column_of_the_user_is_recognised_where_all_lines_have_it():
    users = frozenset({"root", "www-data"})
    assert has_user_column("PATH=/bin\n1 2 * * * root ls\n@daily www-data ls -l\n", users)
    assert not has_user_column("1 2 * * * root ls\n1 2 * * * ls -l\n", users)
    assert not has_user_column("# nothing\n", users)


# writing


def test_what_is_written_comes_back_with_the_same_times_and_input():
    _, tasks = taken(USER_CRONTAB + "0 22-2,5/3 * * SUN-TUE odd 'a%b'\n".replace("a%b", "a\\%b"))
    again = take_over(written(tasks, system=True), system=True, machine=SYSTEM)[1]
    assert len(again) == len(tasks)
    for old, new in zip(tasks, again, strict=True):
        (was,), (now,) = old["schedules"], new["schedules"]
        assert now["timezone"] == was["timezone"]
        assert fires(now) == fires(was)
        assert new["params"].get("stdin") == old["params"].get("stdin")
        assert new["params"]["user"] == "ann"
    assert "a%b" in again[-1]["params"]["command"]


def fires(schedule):
    cron, at, found = Cron(schedule["cron"], ZoneInfo(schedule["timezone"])), 1_800_000_000_000, []
    while len(found) < 50:
        at = cron.next(at)
        found.append(at)
    return found


def test_what_is_written_runs_in_a_shell_as_the_task_would():
    task = {
        "name": "t",
        "type": "shell",
        "params": {"command": 'echo "$A in $PWD"; printf 100%%', "cwd": "/", "env": {"A": "it's"}},
        "schedules": [{"cron": "@daily", "timezone": "UTC"}],
    }
    line = written([task], system=False).splitlines()[-1]
    command, _ = split_input(line.split(None, 5)[5])
    done = subprocess.run([shutil.which("sh"), "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "it's in /\n100%"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schedules": [{"every": 600.0}]}, "# not here: every 600.0: cron has times of the calendar only"),
        ({"schedules": [{"cron": "0 0 5 * * *"}]}, "0 5 * * * ls"),
        ({"schedules": [{"cron": "30 0 5 * * *"}]}, "cron knows no seconds"),
        ({"schedules": [{"cron": "0 5 * * LFRI"}]}, "cron knows neither L nor #"),
        ({"schedules": []}, "# not here: it has no schedule"),
        ({"type": "http"}, "a task of the type http is no command"),
        ({"params": {"command": "a\nb"}}, "several lines: put them into a file"),
        ({"enabled": False}, "# 0 5 * * * ls"),
        ({"timeout": 60.0}, "# cron has no equal of 'timeout': it is lost"),
        ({"params": {"argv": ["echo", "a b"]}}, "0 5 * * * echo 'a b'"),
        ({"params": {"command": "x y", "shell": "/bin/bash"}}, "0 5 * * * /bin/bash -c 'x y'"),
    ],
)
def test_what_cron_cannot_do_stays_a_comment(change, said):
    task = {"name": "t", "type": "shell", "params": {"command": "ls"}, "schedules": [{"cron": "0 5 * * *"}]}
    assert said in written([task | change], system=False)


# the commands


def test_a_dry_run_needs_no_server_and_names_every_line(taskman, tmp_path):
    (tmp_path / "tab").write_text("0 5 * * * ls\n@reboot x\n")
    done = taskman("import", "crontab", "tab", "--dry-run")
    assert done.returncode == 1
    assert "line 1: 0 5 * * * ls\n  would be: ls-" in done.out
    assert "line 2: @reboot x\n  refused: '@reboot' has no equal" in done.out
    assert "2 lines would make 1 task; nothing was saved; 1 refused" in done.err
    found = json.loads(taskman("import", "crontab", "-", "--dry-run", "--json", stdin="0 5 * * * ls\n").out)
    assert found["tasks"][0]["schedules"] == [{"cron": "0 5 * * *", "timezone": "Europe/Berlin", "catchup": "skip"}]


def test_an_import_creates_then_leaves_alone_then_changes(server, taskman, replies, tmp_path):
    (tmp_path / "tab").write_text("0 5 * * * ls\n")
    server.on("POST /tasks", replies.document({"name": "x"}, 201))
    assert "1 created, 0 changed, 0 unchanged" in taskman("import", "crontab", "tab").err
    body = server.asked[-1].body
    there = {**body, "revision": 3, "created_at": "x", "updated_at": "x", "next_at": None, "timeout": 60.0}
    server.on(f"GET /tasks/{body['name']}", replies.document(there))
    assert "0 created, 0 changed, 1 unchanged" in taskman("import", "crontab", "tab").err
    (tmp_path / "tab").write_text("30 6 * * * ls\n")
    server.on(f"PUT /tasks/{body['name']}", replies.document({"name": "x"}))
    assert "0 created, 1 changed, 0 unchanged" in taskman("import", "crontab", "tab").err
    sent = server.asked[-1].body
    assert (sent["schedules"][0]["cron"], sent["timeout"]) == ("30 6 * * *", 60.0)
    assert "revision" not in sent


def test_a_crontab_that_is_not_there_is_a_usage_error(taskman):
    done = taskman("import", "crontab", "nowhere")
    assert (done.returncode, done.out) == (2, "")
    assert "nowhere cannot be read" in done.err


def test_a_user_and_a_column_for_it_do_not_go_together(taskman):
    assert taskman("import", "crontab", "-", "--system", "--user", "ann", "--dry-run", stdin="").returncode == 2


def test_a_preview_needs_no_server(taskman):
    arguments = ("--timezone", "America/New_York", "--from", "2027-03-13T12:00Z", "-n", "2")
    done = taskman("schedules", "preview", "30 2 * * *", *arguments)
    assert done.returncode == 0
    assert done.out.startswith("At 02:30, on the clock of America/New_York.\n")
    assert "Sun 2027-03-14 03:00:00  Sun 08:00:00  Sun 07:00:00  02:30 does not exist that day: runs 03:00" in done.out
    assert "note: 12 March 2028" in done.err
    assert len(json.loads(taskman("schedules", "preview", "@daily", "--json").out)["items"]) == 10


def test_a_preview_of_nonsense_is_a_usage_error_that_shows_the_field(taskman):
    done = taskman("schedules", "preview", "0", "9", "*", "*", "MO-FR")
    assert (done.returncode, done.out) == (2, "")
    assert "the day of week field 'MO-FR' is not understood: did you mean MON-FRI?" in done.err


def test_next_and_timers_are_tables(server, taskman, replies):
    item = {"at": "2998-01-01T00:00:00.000Z", "local": "2998-01-01T01:00:00+01:00", "notes": ["a", "b"], "schedule": 0}
    server.on("GET /tasks/nightly/next", replies.document({"items": [item]}))
    line = taskman("tasks", "next", "nightly", "-n", "1").out.splitlines()[1]
    assert re.fullmatch(r"Mon 2998-01-01 01:00:00 \+01:00  \d+ d( \d+ h)?  1 +a; b", line)
    assert server.asked[-1].query == {"n": "1"}
    entry = {"task": "nightly", "text": "At 02:30", "next_at": "2998-01-01T00:00:00.000Z", "last_at": None}
    server.on("GET /schedules", replies.document({"items": [entry], "next_cursor": None}))
    titles, row = taskman("timers").out.splitlines()
    assert titles.split() == ["NEXT", "LEFT", "LAST", "PASSED", "TASK", "SCHEDULE"]
    assert re.search(r"2998-01-01 01:00 +\d+ d.* +– +– +nightly +At 02:30", row)
    server.on("GET /schedules", replies.document({"items": [], "next_cursor": None}))
    assert "nothing is due" in taskman("timers").err


def test_tasks_are_exported_without_what_only_the_server_says(server, taskman, replies):
    task = {"name": "a", "type": "shell", "params": {"command": "ls"}, "schedules": [{"cron": "@daily"}], "revision": 1}
    server.on("GET /tasks/a", replies.document(task))
    assert "revision" not in json.loads(taskman("tasks", "export", "a").out)["tasks"][0]
    assert "0 0 * * * ls" in taskman("tasks", "export", "a", "--as", "crontab").out
