from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import fake_kubernetes, fake_slurm
from .support import Site, program


class SlurmSite(Site):
    """A home whose ranks are jobs of the fake Slurm."""

    def __init__(self, root: Path, *, launcher: str = "slurm", table: str = "", training: str = "") -> None:
        self.slurm = root / "slurm"
        programs = fake_slurm.install(self.slurm)
        table = f'[slurm]\npoll_s = 0.1\npython = "{program(root)}"\n{table}'
        super().__init__(root, launcher, programs, table, training=training)

    def jobs(self) -> dict[str, str]:
        """State of every job there ever was."""
        return {job["id"]: job["state"] for job in fake_slurm.jobs(self.slurm)}

    def calls(self, command: str) -> list[str]:
        lines = (self.slurm / "calls").read_text().splitlines()
        return [line for line in lines if line.split()[0] == command]

    def close(self) -> None:
        super().close()
        (self.slurm / "hold").unlink(missing_ok=True)
        for number in self.jobs():
            fake_slurm.end(self.slurm, number, "CANCELLED")
            fake_slurm.reap(self.slurm, number)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[SlurmSite]:
    site = SlurmSite(tmp_path)
    yield site
    site.close()


class KubernetesSite(Site):
    """A home whose ranks are Jobs of the fake Kubernetes."""

    def __init__(self, root: Path, *, table: str = "", training: str = "", python: str | None = None) -> None:
        self.cluster = root / "kubernetes"
        programs = fake_kubernetes.install(self.cluster)
        table = (
            f'[kubernetes]\nimage = "registry.example.org/tapestry:1"\nclaim = "home"\npoll_s = 0.1\n'
            f'mount_path = "{root / "home"}"\nrun_as_user = 1000\n'
            f'python = "{python or program(root)}"\n{table}'
        )
        super().__init__(root, "kubernetes", programs, table, training=training)

    def objects(self, kind: str) -> list[dict[str, Any]]:
        return fake_kubernetes.objects(self.cluster, kind)

    def calls(self, command: str) -> list[str]:
        return [line for line in (self.cluster / "calls").read_text().splitlines() if f" {command} " in line]

    def close(self) -> None:
        super().close()
        (self.cluster / "hold").unlink(missing_ok=True)
        fake_kubernetes.delete(
            self.cluster, [f"job/{job['metadata']['name']}" for job in self.objects("Job")], wait=True
        )


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[KubernetesSite]:
    site = KubernetesSite(tmp_path)
    yield site
    site.close()
