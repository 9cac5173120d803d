"""The life of a Job: the watcher, kubectl over pods that are real processes, and the manifest itself."""

from __future__ import annotations

import signal

from .conftest import KubernetesSite
from .support import wait_until


def test_a_job_waits_runs_and_is_deleted_when_the_node_stops(kubernetes: KubernetesSite) -> None:
    (kubernetes.cluster / "hold").touch()
    watcher = kubernetes.watch()
    wait_until(lambda: kubernetes.status().get("phase") == "queued" and kubernetes.status().get("reason"))
    assert kubernetes.status("launcher")["reason"] == (
        "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    )
    (kubernetes.cluster / "hold").unlink()
    wait_until(kubernetes.trains)
    assert len(kubernetes.objects("NetworkPolicy")) == 1
    [run] = kubernetes.runs()
    assert run["argv"][-4:] == ["-m", "tapestry.training", "--home", str(kubernetes.home)]
    assert run["env"]["HOME"] == "/tmp" and run["env"]["OMP_NUM_THREADS"] == "1"
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(20) == 0
    assert (kubernetes.home / "stopped").exists(), "the ranks were not asked to stop"
    assert not any(kubernetes.objects(kind) for kind in ("Job", "Pod", "NetworkPolicy"))


def test_a_killed_watcher_leaves_the_job_and_the_next_takes_it_up(kubernetes: KubernetesSite) -> None:
    watcher = kubernetes.watch()
    wait_until(kubernetes.trains)
    [before] = kubernetes.objects("Job")
    watcher.kill()
    watcher.wait()
    (kubernetes.home / "launch" / "job.json").unlink()
    again = kubernetes.watch()
    wait_until(lambda: "job-taken-up" in kubernetes.events())
    wait_until(kubernetes.trains)
    [after] = kubernetes.objects("Job")
    assert after["metadata"]["uid"] == before["metadata"]["uid"] and len(kubernetes.runs()) == 1
    again.send_signal(signal.SIGTERM)
    assert again.wait(20) == 0


def test_a_job_of_other_settings_is_replaced(kubernetes: KubernetesSite) -> None:
    watcher = kubernetes.watch()
    wait_until(kubernetes.trains)
    [before] = kubernetes.objects("Job")
    watcher.kill()
    watcher.wait()
    text = (kubernetes.home / "node.toml").read_text()
    (kubernetes.home / "node.toml").write_text(text.replace("threads = 1", "threads = 2"))
    kubernetes.watch()
    wait_until(lambda: len(kubernetes.runs()) == 2)
    wait_until(kubernetes.trains)
    [after] = kubernetes.objects("Job")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]


def test_a_job_that_somebody_deleted_is_submitted_again(kubernetes: KubernetesSite) -> None:
    from . import fake_kubernetes

    watcher = kubernetes.watch()
    wait_until(kubernetes.trains)
    [job] = kubernetes.objects("Job")
    fake_kubernetes.delete(kubernetes.cluster, [f"job/{job['metadata']['name']}"], wait=True)
    assert watcher.wait(20) == 1
    kubernetes.watch()
    wait_until(kubernetes.trains)


def test_pods_that_fail_too_often_end_the_watcher(kubernetes: KubernetesSite) -> None:
    (kubernetes.home / "behave").write_text("crash")
    text = (kubernetes.home / "node.toml").read_text()
    (kubernetes.home / "node.toml").write_text(
        text.replace("[kubernetes]\n", "[kubernetes]\nmax_restarts = 1\n")
    )
    (kubernetes.home / "launch").mkdir()
    (kubernetes.home / "launch" / "job.json").write_text('{"failures": 3}')
    assert [kubernetes.watch().wait(20) for _ in range(2)] == [1, 9]
    error = kubernetes.status()["error"]
    assert "BackoffLimitExceeded" in error["message"] and "kubectl" in error["hint"]


def test_a_typed_error_ends_the_watcher_and_the_job(kubernetes: KubernetesSite) -> None:
    (kubernetes.home / "behave").write_text("ill")
    assert kubernetes.watch().wait(20) == 2
    assert kubernetes.status()["error"]["code"] == "corpus"
    assert kubernetes.objects("Job") == []


def test_a_server_that_is_away_for_a_while_is_waited_for(kubernetes: KubernetesSite) -> None:
    (kubernetes.cluster / "away").touch()
    watcher = kubernetes.watch()
    wait_until(lambda: "Unable to connect" in kubernetes.status("launcher").get("trouble", ""))
    (kubernetes.cluster / "away").unlink()
    wait_until(kubernetes.trains)
    (kubernetes.cluster / "away").touch()
    wait_until(lambda: "Unable to connect" in kubernetes.status("launcher").get("trouble", ""))
    (kubernetes.cluster / "away").unlink()
    wait_until(lambda: "trouble" not in kubernetes.status("launcher"))
    assert watcher.poll() is None and len(kubernetes.runs()) == 1


def test_a_manifest_that_is_refused_is_an_error_of_the_settings(kubernetes: KubernetesSite) -> None:
    (kubernetes.cluster / "refuse").write_text('Error from server (NotFound): namespaces "default" not found')
    assert kubernetes.watch().wait(20) == 2
    assert 'namespaces "default" not found' in kubernetes.status()["error"]["message"]
