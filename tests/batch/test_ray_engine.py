"""Actors of a real Ray cluster on this computer that die, hang, wait for room, and are lost with their node."""

import logging
import os
import signal
from pathlib import Path

import pytest
from worker_faults import DeadStartTask, FaultyTask, TaskWithoutWeights, VisibleGpuTask, planned

from kneegrade.batch.ray_engine import RayEngine
from kneegrade.errors import KneeGradeError, WeightsError

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.slow
LOCAL = {"address": "local", "include_dashboard": False, "log_to_driver": False, "num_gpus": 1}


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processors and one GPU, which is only declared."""
    with pytest.MonkeyPatch.context() as patch:
        here = str(Path(__file__).parent)
        patch.setenv("PYTHONPATH", f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        ray.init(num_cpus=2, **LOCAL)
        yield
        ray.shutdown()


def outcomes(engine, films):
    return {rows.film["source"]: rows for rows in engine.run(films) if rows is not None}


@pytest.mark.usefixtures("cluster")
def test_actors_for_which_there_is_no_room_get_no_film(tmp_path):
    films = planned("a", "kill", "b", "once", "c", "d", "e")
    found = outcomes(RayEngine(FaultyTask(tmp_path), workers=5), films)
    assert {name: (rows.film["status"], rows.log["attempts"]) for name, rows in found.items()} == {
        **dict.fromkeys("abcde", ("graded", 1)), "once": ("graded", 2), "kill": ("failed", 3),
    }  # fmt: skip
    assert found["kill"].film["reason_code"] == "worker_died"


@pytest.mark.usefixtures("cluster")
def test_a_film_that_hangs_its_actor_gets_a_row(tmp_path):
    found = outcomes(RayEngine(FaultyTask(tmp_path), workers=2, film_seconds=2), planned("hang", "a", "b"))
    assert {name: rows.film["reason_code"] for name, rows in found.items() if rows.film["status"] == "failed"} == {
        "hang": "worker_timeout"
    }
    assert len(found) == 3


@pytest.mark.usefixtures("cluster")
def test_a_cluster_without_room_ends_the_run(tmp_path):
    other = ray.remote(num_cpus=2)(FaultyTask).remote(tmp_path)
    with pytest.raises(KneeGradeError, match="The cluster has 2 processors") as found:
        list(RayEngine(FaultyTask(tmp_path), workers=1, start_seconds=3).run(planned("a")))
    assert found.value.code == "no_workers"
    ray.kill(other)


@pytest.mark.usefixtures("cluster")
def test_networks_that_cannot_be_loaded_end_the_run():
    with pytest.raises(WeightsError, match="damaged"):
        list(RayEngine(TaskWithoutWeights(), workers=1).run(planned("a")))


@pytest.mark.usefixtures("cluster")
def test_actors_that_all_die_before_they_are_ready_end_the_run(monkeypatch):
    monkeypatch.setattr("kneegrade.batch.ray_engine.MAX_DEATHS", 2)
    with pytest.raises(KneeGradeError, match="2 actors of Ray in a row died before"):
        list(RayEngine(DeadStartTask(), workers=1).run(planned("a")))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("uses_gpu", "seen"), [(True, "0"), (False, "")])
def test_actors_see_a_gpu_only_if_they_use_it(uses_gpu, seen):
    found = outcomes(RayEngine(VisibleGpuTask(), workers=2, uses_gpu=uses_gpu), planned("a"))
    assert found["a"].log["host"] == seen


@pytest.fixture
def without_cluster():
    """No connection to Ray before and after."""
    ray.shutdown()
    yield
    ray.shutdown()


@pytest.mark.usefixtures("without_cluster")
def test_sigterm_is_left_to_the_command(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    RayEngine(FaultyTask(tmp_path), workers=1)
    assert ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("without_cluster")
def test_films_of_a_lost_node_are_graded_by_the_actors_of_another(tmp_path):
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    lost = [cluster.add_node(num_cpus=2, **small) for _ in range(2)][1]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    engine, attempts = RayEngine(FaultyTask(tmp_path, seconds=0.5), workers=4), {}
    try:
        for rows in engine.run(planned(*map(str, range(40)))):
            if rows is not None:
                attempts[rows.film["source"]] = rows.log["attempts"]
            if lost is not None and len(engine._running) > 2:  # some on each node
                cluster.remove_node(lost, allow_graceful=False)
                lost = None
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost is None
    assert len(attempts) == 40
    assert 2 in attempts.values()
