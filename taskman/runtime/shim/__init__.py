"""Runs one process tree at a time for a worker, and ends it whatever happens.

A program of its own: `python -I -S shim/__main__.py <fd>`, where fd is one end of a Unix stream socket (the lifeline)
whose other end only the worker holds. It imports nothing of Taskman but this package and little else, to start fast.

As a child subreaper it inherits every descendant that loses its parent, so nothing it started can leave its
tree, and `wait` answers ECHILD exactly when the tree is gone. Only then is the run over, and the shim free for
the next. When the lifeline ends, the worker is dead: the tree is killed and the shim exits.

A tree that is held outlives its worker for a while: 8 s, or until its lease has it stopped. It waits, its outputs full
if need be, and the shim listens on a socket that the worker made. Who connects, with our own uid, is the worker from
then on: it is told what is held, and how it ended if it did meanwhile. A tree that somebody has begun to end is held no
more. A worker that does not want a tree says `kill` before it lets go of the lifeline: its end alone is its death.

It is a dead man's switch as well. With each tree, and with each renewal of its lease, the worker says until when the
tree may live: two moments of `clock.now`, for SIGTERM and for SIGKILL. A worker that stands still says nothing newer,
and the tree is gone before anybody else may have the run. A word that comes late cannot lengthen anything.

A message is a frame: four bytes of length, then words separated by NUL, which none of them can contain.

    worker -> shim   spawn <stop_at> <kill_at> <grace_s> <cwd> <user> <n> <argument>{n} <NAME=value>*
                                        with two or three fds: stdout, stderr and, where the process shall not read
                                        /dev/null, stdin
                     lease <stop_at> <kill_at>     the lease was renewed: these moments hold from now on
                     stop <grace_s>     SIGTERM now, SIGKILL to what is left after the grace
                     kill               SIGKILL now
                     hold <label> <path>           with three fds: a listening socket, at that path, and our ends of
                                        stdout and stderr
    shim -> worker   started <pid>
                     overdue            nothing was started: `stop_at` is over
                     error <errno> <what> <message>
                     exited <exit code, or minus the signal> <cpu_s> <max_rss_bytes> <1 if the lease ended it, else 0>
                     held <label> <pid of the shim> <stop_at> <kill_at>
                                        with two fds, stdout and stderr: the first word to a worker that has come
                                        for a tree; `exited` follows, now or later
"""
