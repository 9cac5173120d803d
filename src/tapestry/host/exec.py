"""`python -m tapestry.host.exec [--parent PID] [--isolate] [--only RULE]... [--user UID:GID] -- CMD...`

Becomes CMD, prepared.

With `--isolate` the network is dropped first and TAPESTRY_ISOLATION says how far that got; with
`--parent` the process dies with its parent; with `--only` it touches no files but those of the rules
(`host.landlock`), where the kernel can see to that; with `--user` it is that user's. The order matters:
a user namespace takes files that the rules may not name, the rules take paths that the user may not reach,
and namespace and change of user clear the death signal.
"""

from __future__ import annotations

import os
import sys

from tapestry.host import landlock, users
from tapestry.host.isolation import LEVEL_VARIABLE, drop_network
from tapestry.host.processes import die_with_parent

USAGE = (
    "usage: python -m tapestry.host.exec [--parent PID] [--isolate] [--only RULE]... [--user UID:GID] "
    "-- CMD...\n"
)


def main(argv: list[str]) -> int:
    """Does not return once the command runs."""
    parent: int | None = None
    isolate = False
    only: list[landlock.Rule] = []
    user: users.User | None = None
    rest = list(argv)
    while rest and rest[0] != "--":
        option = rest.pop(0)
        if option == "--isolate":
            isolate = True
        elif option == "--parent" and rest and rest[0].isdigit():
            parent = int(rest.pop(0))
        elif option == "--only" and rest and (rule := _rule(rest.pop(0))) is not None:
            only.append(rule)
        elif option == "--user" and rest and (user := _user(rest.pop(0))) is not None:
            pass
        else:
            sys.stderr.write(USAGE)
            return 2
    command = rest[1:]
    if not command:
        sys.stderr.write(USAGE)
        return 2
    if isolate:
        os.environ[LEVEL_VARIABLE] = drop_network()
    if only:
        landlock.restrict(only)
    if user is not None:
        try:
            users.become(user)
        except OSError as e:
            sys.stderr.write(f"cannot become user {user}: {e.strerror}\n")
            return 126
    if parent is not None:
        die_with_parent(parent)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as e:
        sys.stderr.write(f"cannot run {command[0]}: {e.strerror}\n")
        return 127


def _rule(text: str) -> landlock.Rule | None:
    try:
        return landlock.Rule.parse(text)
    except ValueError:
        return None


def _user(text: str) -> users.User | None:
    try:
        return users.User.parse(text)
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
