"""Checks of the listener for Prometheus: it is an extra, and open to whoever reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from tapestry.cli.checkup.finding import Finding, fail, ok, warn
from tapestry.transport.observe import MetricsSection, has_client


def of_metrics(section: MetricsSection, where: str) -> Iterator[Finding]:
    """Nothing where it is off. `where`: the file that both are set in."""
    if section.port is None:
        return
    at = f"port {section.port} of {section.host}"
    if not has_client():
        found = f"{at} is set, and the package prometheus-client is not installed: it will not start"
        mend = f"pip install 'tapestry[metrics]', or take port out of [metrics] in {where}"
        yield fail("metrics", found, mend)
    elif not _loopback(section.host):
        found = f"{at}: whoever reaches it reads which runs there are and how they stand"
        mend = f"let a firewall pass Prometheus alone, or set host in {where} to 127.0.0.1"
        yield warn("metrics", found, mend)
    else:
        yield ok("metrics", at)


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
